"""The demonstration: read a long text, fork the session, save it, resume it in a new process, and write the report."""

from __future__ import annotations

import json
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.machine import threads_said
from ..core.terminal import console, escaped
from ..core.version import VERSION
from ..errors import CheckpointError, InputError
from ..inference import Session
from ..inference.receipt import growth, human, kv_cache_bytes
from ..io import write_text
from ..io.atomic import check_place
from ..models.checkpoint import load
from . import plots, recall, report
from .panel import Panel
from .reading import Race
from .record import Record
from .resume import prove
from .text import reading

if TYPE_CHECKING:
    from rich.console import Console

    from ..models.lm import LM

PROMPTS = (
    "In regard to our relations with foreign powers, I have to report that",
    "In regard to the public debt and the revenue, I have to report that",
)
PIECE = 80  # tokens that each fork writes
ENDING = 20.0  # seconds reserved for everything after the reading
LEAST = 0.3  # minimum share of the whole time for the reading


def demonstrate(
    run: Path,
    seconds: float = 240.0,
    tokens: int = 250_000,
    out: Path = Path("demo-report.html"),
    picture: Path | None = None,
    lookup: Path | None = None,
) -> Record:
    """Runs the whole demonstration of the model in `run` in about `seconds`; writes the report (and the picture).

    lookup   the model that is told facts and asked for them; None: nothing is asked
    Raises CheckpointError for an unusable run, DataError without text, InputError for times or lengths out of range,
    StorageError if the report cannot be written.
    """
    if not seconds > 0 or tokens < 1:
        raise InputError(f"seconds={seconds} and tokens={tokens} must be above 0")
    began, screen, record = time.perf_counter(), console(sys.stdout), Record()
    for path in filter(None, (out, picture, picture and narrow(picture))):
        check_place(path)
    model, tokenizer = load(run)
    proof = 2 * min(max(layer.segment for layer in model.cfg.layer_configs), 256)
    text = reading(tokenizer, tokens + proof, run)
    told, ids = text.ids[-proof:], text.ids[: max(1, min(tokens, len(text.ids) - proof))]
    text = type(text)(ids, text.sizes[: len(ids)], text.source)
    record.facts |= _facts(model, run, text.source, len(ids), int(text.sizes.sum()))
    record.evidence = _evidence(run)
    for key in ("model", "text", "machine"):
        _say(screen, record.facts[key])

    if lookup is not None:
        _say(screen, "\nFacts are told in the text, and asked at its end:")
        record.recall = recall.ask(lookup, recall.SHARE * seconds, lambda line: _say(screen, line), max(2048, tokens))
    left = max(1.0, LEAST * seconds, seconds - ENDING - (time.perf_counter() - began))
    race = Race(model, tokenizer, text, record, left)
    with Panel(record, len(ids), screen) as panel:
        race.run(panel)
    session = race.session
    _say(screen, "\nTwo forks of the session, each with a different sentence:")
    record.forks = [_fork(session, prompt, screen) for prompt in PROMPTS]

    _say(screen, "Saving the session, and resuming from the file in a new process:")
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder:
        record.resume = prove(session, told, run, Path(folder))
    _tell(record.resume, screen)

    record.facts["seconds"] = round(time.perf_counter() - began, 1)
    write_text(out, report.page(record))
    if picture is not None:
        write_text(picture, plots.picture(record))
        write_text(narrow(picture), plots.picture(record, narrow=True))
    _say(screen, f"\nThe report is {out} ({record.facts['seconds']:.0f} s in all).")
    return record


def narrow(picture: Path) -> Path:
    """The file of the picture for narrow screens: demo.svg -> demo-narrow.svg."""
    return picture.with_stem(f"{picture.stem}-narrow")


def _say(screen: Console, text: str) -> None:
    screen.print(escaped(text), markup=False, soft_wrap=True)


def _fork(session: Session, prompt: str, screen: Console) -> dict[str, Any]:
    """Forks the session, reads `prompt` and generates; checks that the original session does not change."""
    assert session.logits is not None
    before, logits = session.position, session.logits.clone()
    fork = session.fork()
    fork.append(prompt)
    start, clock = fork.position, time.perf_counter()
    pieces = list(fork.generate(PIECE, temperature=0.7, top_p=0.9, seed=1))
    ms = 1000 * (time.perf_counter() - clock) / max(1, fork.position - start)
    moved = session.position != before or not torch.equal(session.logits, logits)
    written = "".join(pieces)
    _say(screen, f"  {prompt} | {' '.join(written.split())}\n")
    return {"prompt": prompt, "text": re.sub(r"\s*\n\s*\n\s*", "\n\n", written), "ms": ms, "moved": moved}


def _tell(proof: dict[str, Any], screen: Console) -> None:
    for side, name in (("here", "this process"), ("there", "new process ")):
        part = proof[side]
        line = (
            f"  {name} {part['process']:>7}: position {part['position']:,}, logits {part['logits']}, state {part['state'][:16]}…"
        )
        _say(screen, line)
    there = proof["there"]
    _say(
        screen,
        f"  {'bit-equal' if proof['equal'] else 'NOT EQUAL'}: {there['restored']:,} tokens restored from "
        f"{human(proof['file_bytes'])}, {there['recomputed']} recomputed, {proof['tokens']} read on both sides",
    )


def _facts(model: LM, run: Path, source: str, tokens: int, size: int) -> dict[str, Any]:
    cfg, layer = model.cfg, model.cfg.layer
    element, dtype = model.like.element_size(), str(model.like.dtype).removeprefix("torch.")
    kinds = {"memory": "memory", "window": "window-only", "attention": "attention"}
    counted = [(cfg.kinds.count(kind), name) for kind, name in kinds.items() if kind in cfg.kinds]
    layers = " and ".join(f"{number} {name} layer{'s' * (number != 1)}" for number, name in counted)
    return {
        "model": f"A model of {model.parameters_count:,} parameters: {layers}, window {layer.window}, "
        f"{layer.memory} memory, {layer.cache} cache, {layer.segments} segments of {layer.segment}{cfg.differences}",
        "text": f"{source}, {tokens:,} tokens ({human(size)})",
        "machine": f"{threads_said()}, {dtype}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}",
        "checkpoint": run.name,
        "siltstone": VERSION,
        "growth": growth(cfg),
        "window": cfg.widest_window,
        "parameters": model.parameters_count,
        "cache_bytes_a_token": kv_cache_bytes(cfg, 1, element),
    }


def _evidence(run: Path) -> dict[str, Any]:
    """`evidence.json` in the folder of the model; {} if there is none."""
    try:
        found = json.loads((run / "evidence.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run / 'evidence.json'} is damaged: {error}") from error
    return found if isinstance(found, dict) else {}
