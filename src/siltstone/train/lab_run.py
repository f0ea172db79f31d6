"""One run of the laboratory: trained to the end from its checkpoint, saved as a run folder, and tried."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..eval.run import TRAINED, observe_loads, summary
from ..eval.watch import RoutingWatch
from ..io import write_checked
from ..models.checkpoint import save
from ..text import ByteTokenizer
from . import resume
from .lab_recipe import Lab
from .token_trainer import TokenTrainer

RESULT, RESUME = "result.json", "training.safetensors"
PAUSE = 10.0  # seconds between two lines of progress


def train_and_try(
    trainer: TokenTrainer,
    lab: Lab,
    folder: Path,
    routing: tuple[str, RoutingWatch | None],
    say: Callable[[str], None],
    over: Callable[[], bool],
) -> dict[str, Any] | None:
    """The figures of the run, ready for JSON; None if `over()` became true: then a checkpoint is kept.

    routing   the arm's routing, and the watch that counts hits
    """
    checkpoint, spent, curve = folder / RESUME, 0.0, []
    if checkpoint.is_file():
        about = resume.restore(trainer, checkpoint)
        spent, curve = about["seconds"], about["curve"]
        say(f"resumed at step {trainer.step:,}")
    began, recipe, said = time.perf_counter() - spent, lab.recipe, time.perf_counter()
    kept = trainer.step
    while (done := recipe.done(trainer.step, spent)) < 1:
        if over():
            if trainer.step > kept:
                resume.save(trainer, checkpoint, {"seconds": spent, "curve": curve})
            say(f"stopped at step {trainer.step:,}, which is kept")
            return None
        loss = trainer.advance(done)
        spent = time.perf_counter() - began
        if trainer.step % max(1, recipe.save_every // 10) == 0:
            curve.append([trainer.step, loss])
        if trainer.step % recipe.save_every == 0:
            resume.save(trainer, checkpoint, {"seconds": spent, "curve": curve})
            kept = trainer.step
        if time.perf_counter() - said > PAUSE:
            said = time.perf_counter()
            end = f" of {recipe.steps:,}" if recipe.steps else ""
            say(f"step {trainer.step:,}{end}, {done:.0%}, loss {loss:.3f} nats an answer")
    model, task = trainer.model.eval(), trainer.task
    save(model, ByteTokenizer(), folder)
    facts = {"task": lab.task, "options": lab.options, "seed": trainer.seed, "routing": routing[0]}
    write_checked(folder / TRAINED, facts)
    rows = []
    for length in lab.test:
        found = observe_loads(model, task, length, lab.items, trainer.seed, watch=routing[1])
        seen = [(trainer.seed, one) for one in found]
        rows += summary(task, [trainer.seed], seen)
    right, hits = ({str(n): _mean(rows, score, n) for n in lab.test} for score in ("right", "routing hit"))
    checkpoint.unlink(missing_ok=True)
    say(", ".join(f"{share:.3f} right at {length}" for length, share in right.items()))
    return {
        "right": right,
        "routing_hits": {n: hit for n, hit in hits.items() if hit is not None},
        "rows": rows,
        "curve": curve,
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": spent,
        "device": str(trainer.device),
    }


def _mean(rows: list[dict[str, Any]], score: str, length: int) -> float | None:
    """The mean over all test streams of a length, whatever their load; None without any."""
    some = [row for row in rows if row["score"] == score and row["at"]["length"] == length]
    return float(np.average([row["mean"] for row in some], weights=[row["count"] for row in some])) if some else None
