"""Begins or resumes a run: texts, tokenizer, configuration, and the folder with all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config.model import LMConfig
from ..errors import CheckpointError, ConfigError, DataError, FormatWarning
from ..io import Claim, atomic_file, claim, read_checked, sweep, write_checked, write_text
from ..io.atomic import make_folder
from ..io.regular import reason
from ..models.checkpoint import TOKENIZER, WEIGHTS
from ..models.lm import LM
from ..text import Tokenizer, cut_table, load_tokenizer
from .corpus import Corpus, build_corpus, corpus_key, hashed_files, open_corpus
from .recall_text import write_documents
from .recipe import Recipe
from .report import last_step
from .resume import reached
from .starting import starting_weights

UNKNOWN = 1 << 16  # token ids with which a configuration is checked before the tokenizer is known
RECORD, RESUME, METRICS, RECEIPT, DATA = "train.json", "resume.safetensors", "metrics.jsonl", "receipt.json", "data"
MADE = "recall"  # in the folder of the data: text that was made to need memory
_FIXED = ("batch", "length", "span", "seed", "foreign")


@dataclass
class Run:
    """A run that is ready for `fit`: model, texts, settings and folder.

    asked   the argument `tokenizer`, for example "bpe:8192"
    init    the folder whose weights the run begins with, and their fingerprint
    claim   the claim on the folder, held until `fit` returns, `close` is called or the run is freed; None: released
    """

    folder: Path
    cfg: LMConfig
    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus | None
    recipe: Recipe
    threads: int
    device: str
    asked: str
    init: dict[str, Any] | None = None
    claim: Claim | None = None

    def close(self) -> None:
        """Releases the claim on the folder, if `fit` has not done so."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None

    @property
    def checkpoint(self) -> Path:
        """The file from which a run resumes."""
        return self.folder / RESUME


def begin(
    folder: str | Path,
    paths: Sequence[str | Path],
    configure: Callable[[int], LMConfig],
    recipe: Recipe,
    tokenizer: str | Path = "bytes",
    valid: Sequence[str | Path] = (),
    device: str = "cpu",
    overwrite: bool = False,
    init: str | Path | None = None,
    recall: float | None = None,
    grow: bool = False,
) -> Run:
    """Sets up a new run in `folder`.

    paths, valid   text files and folders to train on and to validate on; "-" in `paths` is standard input. Files that are
                   in both (by content) are held out
    configure      number of token ids -> configuration of the model
    tokenizer      "bytes", "bpe:8192" (trained on `paths` without the held-out files) or a tokenizer file
    overwrite      whether a model in the folder may be replaced, at the first checkpoint of the new run
    recall         share of the text's bytes that is made from it so that it needs memory (`siltstone.train.recall_text`)
    init           a run folder whose weights the run begins with; its model has the same shapes and the same tokenizer
    grow           the model of `init` has fewer layers: new ones are put in front of them (`siltstone.train.starting`)
    Raises ConfigError if the folder already has a run or a model; TokenizerError, DataError, StorageError, and its kind
    InUse if another process trains in the folder.
    """
    folder = Path(folder)
    _check_free(folder, overwrite)
    if not paths:
        raise DataError("no text was given; name text files, folders, or '-' for standard input")
    with torch.device("meta"):  # invalid keys raise ConfigError before any work is done
        LM(configure(UNKNOWN))
    held_out = hashed_files(valid)
    with _claimed(make_folder(folder)) as claimed:
        _check_free(folder, overwrite)
        make_folder(folder / DATA)
        for stale in (folder, folder / DATA):
            sweep(stale)
        (folder / RECORD).unlink(missing_ok=True)
        files = hashed_files(_spooled(paths, folder), {digest for _, digest in held_out})
        found = load_tokenizer(tokenizer, [path for path, _ in files])
        if recall is not None:
            files = files + hashed_files(write_documents([path for path, _ in files], recall, folder / DATA / MADE, recipe.seed))
        cfg = configure(found.vocab_size)
        if cfg.vocab_size < found.vocab_size:
            raise ConfigError(f"vocab_size={cfg.vocab_size} is less than the tokenizer's {found.vocab_size} ids; leave it out")
        cut_table(cfg, found)  # raises ConfigError if no token contains cut_at, before any work is done
        begun = None if init is None else starting_weights(init, cfg, found, grow)
        train = build_corpus(files, found, folder / DATA)
        checked = build_corpus(held_out, found, folder / DATA) if held_out else None
        run = Run(
            folder=folder, cfg=cfg, tokenizer=found, train=train, valid=checked, recipe=recipe,
            threads=torch.get_num_threads(), device=device, asked=str(tokenizer), init=begun,
            claim=claimed,
        )  # fmt: skip
        write_text(folder / DATA / TOKENIZER, found.to_json())  # the files of the model are written at its first checkpoint
        _record(run)
    return run


def take_up(folder: str | Path, changes: dict[str, Any], threads: int | None = None, device: str | None = None) -> Run:
    """Opens the run in `folder` again, with some settings of its recipe changed (for example the number of steps).

    Raises CheckpointError if there is no run or it is damaged, ConfigError for a setting that must not change, InUse if another
    process trains in the folder.
    """
    folder = Path(folder)
    try:
        record, sealed = read_checked(folder / RECORD)
        old = Recipe.from_dict(record["recipe"])
        cfg = LMConfig.from_dict(record["model"], stored=True)
        train, valid, asked = str(record["train"]["key"]), record["valid"], str(record["tokenizer"]["asked"])
        valid = None if valid is None else str(valid["key"])
        init = record.get("init")
        proof = str(record["tokenizer"]["sha256"])
        cores, where = int(threads or record["threads"]), str(device or record["device"])
        if not 1 <= cores <= 1 << 16:
            raise ValueError(f"threads={cores} is not a valid number of threads")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} has no run that can be resumed: {folder / RECORD}: {reason(error)[:300]}; train without --resume"
        ) from error
    if not sealed:
        warnings.warn(f"{folder / RECORD} was written by an early version, without a checksum", FormatWarning, stacklevel=2)
    with _claimed(folder) as claimed:
        # The checkpoint of step save_every is written after that step's line: only a later line shows that it was on the disk.
        if not (folder / RESUME).exists() and last_step(folder / METRICS) > old.save_every:
            raise CheckpointError(
                f"{folder / RESUME} is missing, and the run had written it; restore it, or train a new run in another folder"
            )
        fixed = [key for key in changes if key in _FIXED]
        _refuse({key: changes[key] for key in fixed}, old.to_dict(), fixed, "leave them out: those of the run are used")
        _check_end(folder / RESUME, changes)
        for stale in (folder, folder / DATA):
            sweep(stale)
        tokenizer = load_tokenizer(next((p for p in (folder / DATA / TOKENIZER, folder / TOKENIZER) if p.exists()), TOKENIZER))
        if tokenizer.fingerprint != proof:
            raise CheckpointError(f"{folder} has another tokenizer than the one that its run began with; restore that one")
        corpus = open_corpus(train, tokenizer, folder / DATA)
        checked = open_corpus(valid, tokenizer, folder / DATA) if valid else None
        run = Run(
            folder=folder, cfg=cfg, tokenizer=tokenizer, train=corpus, valid=checked, recipe=dataclasses.replace(old, **changes),
            threads=cores, device=where, asked=asked, init=init, claim=claimed,
        )  # fmt: skip
        if run.recipe != old:
            _record(run)
    return run


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[Claim]:
    """A claim on the folder, released only if the block raises."""
    found = claim(folder)
    try:
        yield found
    except BaseException:
        found.release()
        raise


def _check_end(checkpoint: Path, changes: dict[str, Any]) -> None:
    """ConfigError if the new number of steps, or of minutes, is less than the run has made."""
    if not {"steps", "minutes"} & changes.keys() or not checkpoint.exists():
        return
    step, seconds = reached(checkpoint)
    if changes.get("steps") is not None and changes["steps"] < step:
        raise ConfigError(
            f"steps={changes['steps']:,} is below step {step:,}, which the run has reached; steps counts from the beginning of "
            f"the run: give more than {step:,} to train on, or leave it out"
        )
    if changes.get("minutes") is not None and 60 * changes["minutes"] < seconds:
        raise ConfigError(
            f"minutes={changes['minutes']:g} is below the {seconds / 60:.1f} minutes that the run has trained; minutes counts "
            "from the beginning of the run: give more to train on, or leave it out"
        )


def _check_free(folder: Path, overwrite: bool) -> None:
    if (folder / RESUME).exists():
        raise ConfigError(f"{folder} already has a run; resume it with --resume, or choose another --out")
    if (folder / WEIGHTS).exists() and not overwrite:
        raise ConfigError(f"{folder} already has a model; choose another --out, or give --overwrite to replace it")


def check_same(
    run: Run,
    paths: Sequence[str | Path] = (),
    valid: Sequence[str | Path] | None = None,
    tokenizer: str | None = None,
    configure: Callable[[int], LMConfig] | None = None,
    given: Collection[str] = (),
) -> None:
    """Checks that the arguments given to a resumed run are those that it began with; missing arguments are not checked.

    given   keys of the model that the user gave: the message lists them first
    Raises ConfigError for another model or tokenizer, DataError for other texts.
    """
    if tokenizer is not None and str(tokenizer) != run.asked:
        raise ConfigError(f"tokenizer={tokenizer!r} cannot change in a resumed run, which began with {run.asked!r}; leave it out")
    if configure is not None:
        new = configure(run.tokenizer.vocab_size).to_dict()
        _refuse(new, run.cfg.to_dict(), given, "leave --preset, --config and --set out: the keys of the run are used")
    held_out = hashed_files(valid or [])
    if held_out and (run.valid is None or corpus_key(held_out, run.tokenizer) != run.valid.key):
        raise DataError("the held-out text is not the one that the run began with; leave --valid out, or begin a new run")
    if paths and "-" not in map(str, paths):
        besides = {d.sha256 for d in run.valid.documents} if run.valid else set()
        made = sorted((run.folder / DATA / MADE).glob("*.txt"))
        if corpus_key(hashed_files(paths, besides) + (hashed_files(made) if made else []), run.tokenizer) != run.train.key:
            raise DataError("the text is not the one that the run began with; leave the paths out, or begin a new run")


def _refuse(new: dict[str, Any], old: dict[str, Any], given: Collection[str], mend: str) -> None:
    """ConfigError for keys that differ, those of `given` first."""
    if changed := sorted((key for key in new if new[key] != old[key]), key=lambda key: key not in given):
        there, begun = (", ".join(f"{key}={keys[key]!r}" for key in changed) for keys in (new, old))
        raise ConfigError(f"{there} cannot change in a resumed run, which began with {begun}; {mend}")


def can_resume(folder: str | Path) -> bool:
    """Whether a run was set up in `folder` (it may have been killed before its first checkpoint)."""
    return (Path(folder) / RECORD).is_file()


def _record(run: Run) -> None:
    """Writes `train.json`: everything needed to repeat the run. It is written last and marks a complete setup."""
    write_checked(
        run.folder / RECORD,
        {
            "command": sys.argv,
            "recipe": run.recipe.to_dict(),
            "model": run.cfg.to_dict(),
            "tokenizer": {"asked": run.asked, "vocab_size": run.tokenizer.vocab_size, "sha256": run.tokenizer.fingerprint},
            "train": _texts(run.train),
            "valid": _texts(run.valid) if run.valid else None,
            "init": run.init,
            "threads": run.threads,
            "device": run.device,
            "versions": {"siltstone": _version(), "torch": torch.__version__, "python": platform.python_version()},
        },
    )


def _version() -> str:
    try:
        return importlib.metadata.version("siltstone")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _texts(corpus: Corpus) -> dict[str, Any]:
    names = [{"name": d.name, "bytes": d.bytes, "tokens": d.tokens, "sha256": d.sha256} for d in corpus.documents]
    return {"key": corpus.key, "bytes": corpus.bytes, "tokens": corpus.tokens, "documents": names}


def _spooled(paths: Sequence[str | Path], folder: Path) -> list[str | Path]:
    """`paths`, with standard input ("-") copied to a file in the run's folder."""
    out: list[str | Path] = []
    for path in paths:
        if str(path) == "-":
            path = make_folder(folder / DATA) / "stdin.txt"
            with atomic_file(path) as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        out.append(path)
    return out
