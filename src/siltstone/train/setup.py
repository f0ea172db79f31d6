"""Beginning a run, or taking one up again: texts, tokenizer, configuration, and the folder that holds them all."""

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
from .recipe import Recipe
from .report import last_step

RECORD, RESUME, METRICS, RECEIPT, DATA = "train.json", "resume.safetensors", "metrics.jsonl", "receipt.json", "data"
_FIXED = ("batch", "length", "span", "seed", "foreign")


@dataclass
class Run:
    """A run that is ready to go on: what it trains, on what, how, and where it is kept.

    asked   the tokenizer as it was asked for, "bpe:8192" for example
    claim   the folder is this run's until `fit` has ended or nobody holds the run any more; None: it was given back
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
    claim: Claim | None = None

    def close(self) -> None:
        """Gives the folder back to other processes, where `fit` has not done so."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None

    @property
    def checkpoint(self) -> Path:
        """The file that a resumed run starts from."""
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
) -> Run:
    """Sets up a new run in `folder`.

    paths, valid   text files and folders to train on and to validate on; "-" in `paths` is standard input. Files that are
                   in both (by content) are held out
    configure      from the number of token ids to the model's configuration
    tokenizer      "bytes", "bpe:8192" (trained on `paths` without the held-out files) or a tokenizer file
    overwrite      whether a model that is in the folder may be replaced, at the first checkpoint of the new run
    Raises ConfigError when the folder already holds a run, or a model; TokenizerError, DataError, StorageError, and its kind
    InUse where another process trains in the folder.
    """
    folder = Path(folder)
    _check_free(folder, overwrite)
    if not paths:
        raise DataError("no text was given; name text files, folders, or '-' for standard input")
    with torch.device("meta"):  # keys that no model can have are refused before any work is done
        LM(configure(1 << 16))
    held_out = hashed_files(valid)
    with _claimed(make_folder(folder)) as claimed:
        _check_free(folder, overwrite)
        make_folder(folder / DATA)
        for stale in (folder, folder / DATA):
            sweep(stale)
        (folder / RECORD).unlink(missing_ok=True)
        files = hashed_files(_spooled(paths, folder), {digest for _, digest in held_out})
        found = load_tokenizer(tokenizer, [path for path, _ in files])
        cfg = configure(found.vocab_size)
        if cfg.vocab_size < found.vocab_size:
            raise ConfigError(f"vocab_size={cfg.vocab_size} is less than the tokenizer's {found.vocab_size} ids; leave it out")
        cut_table(cfg, found)  # a text that no token holds is refused before any work is done
        train = build_corpus(files, found, folder / DATA)
        checked = build_corpus(held_out, found, folder / DATA) if held_out else None
        run = Run(
            folder=folder, cfg=cfg, tokenizer=found, train=train, valid=checked, recipe=recipe,
            threads=torch.get_num_threads(), device=device, asked=str(tokenizer), claim=claimed,
        )  # fmt: skip
        write_text(folder / DATA / TOKENIZER, found.to_json())  # the model's own files come with its first checkpoint, together
        _record(run)
    return run


def take_up(folder: str | Path, changes: dict[str, Any], threads: int | None = None, device: str | None = None) -> Run:
    """Opens the run in `folder` again, with some settings of its recipe changed (the number of steps, for example).

    Raises CheckpointError when there is none or it is damaged, ConfigError for a setting that must stay as it is, InUse where
    another process trains in the folder.
    """
    folder = Path(folder)
    try:
        record, sealed = read_checked(folder / RECORD)
        old = Recipe.from_dict(record["recipe"])
        cfg = LMConfig.from_dict(record["model"], stored=True)
        train, valid, asked = str(record["train"]["key"]), record["valid"], str(record["tokenizer"]["asked"])
        valid = None if valid is None else str(valid["key"])
        proof = str(record["tokenizer"]["sha256"])
        cores, where = int(threads or record["threads"]), str(device or record["device"])
        if not 1 <= cores <= 1 << 16:
            raise ValueError(f"threads={cores} is no number of threads")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} holds no run that can be resumed: {folder / RECORD}: {reason(error)[:300]}; train without --resume"
        ) from error
    if not sealed:
        warnings.warn(f"{folder / RECORD} was written by an early version, without a checksum", FormatWarning, stacklevel=2)
    with _claimed(folder) as claimed:
        if not (folder / RESUME).exists() and last_step(folder / METRICS) >= old.save_every:
            raise CheckpointError(
                f"{folder / RESUME} is gone, and the run had made it; put it back, or train anew in another folder"
            )
        fixed = [key for key in changes if key in _FIXED]
        _refuse({key: changes[key] for key in fixed}, old.to_dict(), fixed, "leave them out: the run's own are taken")
        for stale in (folder, folder / DATA):
            sweep(stale)
        tokenizer = load_tokenizer(next((p for p in (folder / DATA / TOKENIZER, folder / TOKENIZER) if p.exists()), TOKENIZER))
        if tokenizer.fingerprint != proof:
            raise CheckpointError(f"{folder} holds another tokenizer than its run was begun with; put that one back")
        corpus = open_corpus(train, tokenizer, folder / DATA)
        checked = open_corpus(valid, tokenizer, folder / DATA) if valid else None
        run = Run(
            folder=folder, cfg=cfg, tokenizer=tokenizer, train=corpus, valid=checked, recipe=dataclasses.replace(old, **changes),
            threads=cores, device=where, asked=asked, claim=claimed,
        )  # fmt: skip
        if run.recipe != old:
            _record(run)
    return run


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[Claim]:
    """A claim of the folder that outlasts the block, unless that raises."""
    found = claim(folder)
    try:
        yield found
    except BaseException:
        found.release()
        raise


def _check_free(folder: Path, overwrite: bool) -> None:
    if (folder / RESUME).exists():
        raise ConfigError(f"{folder} already holds a run; go on with --resume, or choose another --out")
    if (folder / WEIGHTS).exists() and not overwrite:
        raise ConfigError(f"{folder} already holds a model; choose another --out, or give --overwrite to replace it")


def check_same(
    run: Run,
    paths: Sequence[str | Path] = (),
    valid: Sequence[str | Path] | None = None,
    tokenizer: str | None = None,
    configure: Callable[[int], LMConfig] | None = None,
    given: Collection[str] = (),
) -> None:
    """Makes sure that what is named again when a run is resumed is what it was begun with (what is not named is not looked at).

    given   keys of the model that the user named: of those that differ they are told first
    Raises ConfigError for another model or tokenizer, DataError for other texts.
    """
    if tokenizer is not None and str(tokenizer) != run.asked:
        raise ConfigError(f"tokenizer={tokenizer!r} cannot change in a resumed run; it was begun with {run.asked!r}")
    if configure is not None:
        new = configure(run.tokenizer.vocab_size).to_dict()
        _refuse(new, run.cfg.to_dict(), given, "leave --preset, --config and --set out: the run's own are taken")
    held_out = hashed_files(valid or [])
    if held_out and (run.valid is None or corpus_key(held_out, run.tokenizer) != run.valid.key):
        raise DataError("the held-out text is not what the run was begun with; leave --valid out, or begin a new run")
    if paths and "-" not in map(str, paths):
        besides = {d.sha256 for d in run.valid.documents} if run.valid else set()
        if corpus_key(hashed_files(paths, besides), run.tokenizer) != run.train.key:
            raise DataError("the text is not what the run was begun with; leave the paths out, or begin a new run")


def _refuse(new: dict[str, Any], old: dict[str, Any], given: Collection[str], mend: str) -> None:
    """ConfigError for keys that differ, those of `given` first."""
    if changed := sorted((key for key in new if new[key] != old[key]), key=lambda key: key not in given):
        there, begun = (", ".join(f"{key}={keys[key]!r}" for key in changed) for keys in (new, old))
        raise ConfigError(f"{there} cannot change in a resumed run, which was begun with {begun}; {mend}")


def can_resume(folder: str | Path) -> bool:
    """Whether a run was set up in `folder` (it may have been killed before its first checkpoint)."""
    return (Path(folder) / RECORD).is_file()


def _record(run: Run) -> None:
    """`train.json`: all that is needed to do the same again. Written last, it marks a run that was set up."""
    write_checked(
        run.folder / RECORD,
        {
            "command": sys.argv,
            "recipe": run.recipe.to_dict(),
            "model": run.cfg.to_dict(),
            "tokenizer": {"asked": run.asked, "vocab_size": run.tokenizer.vocab_size, "sha256": run.tokenizer.fingerprint},
            "train": _texts(run.train),
            "valid": _texts(run.valid) if run.valid else None,
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
    """`paths` with standard input, where it is named, copied to a file of the run's."""
    out: list[str | Path] = []
    for path in paths:
        if str(path) == "-":
            path = make_folder(folder / DATA) / "stdin.txt"
            with atomic_file(path) as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        out.append(path)
    return out
