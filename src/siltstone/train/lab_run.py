"""One run of the laboratory: trained to the end from its checkpoint, saved as a run folder, and tried."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, ConfigError, FormatWarning
from ..eval.routing_map import routing_map
from ..eval.run import TRAINED, observe_loads, summary
from ..eval.tasks.base import random_numbers
from ..eval.watch import RoutingWatch
from ..models.checkpoint import CONFIG, TOKENIZER, save
from ..text import ByteTokenizer
from . import resume
from .lab_recipe import Lab
from .token_trainer import TokenTrainer

RESULT, RESUME = "result.json", "training.safetensors"
SAVED = (CONFIG, TOKENIZER, TRAINED)  # the files that are saved with the model
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
        spent, curve = _resumed(trainer, lab, checkpoint)
        say(f"resumed at step {trainer.step:,}")
    began, recipe, said = time.perf_counter() - spent, lab.recipe, time.perf_counter()
    kept = trainer.step
    while (done := recipe.done(trainer.step, spent)) < 1:
        if over():
            if trainer.step > kept:
                _keep(trainer, lab, checkpoint, spent, curve)
            say(f"stopped at step {trainer.step:,}, which is kept")
            return None
        loss = trainer.advance(done)
        spent = time.perf_counter() - began
        if trainer.step % max(1, recipe.save_every // 10) == 0:
            curve.append([trainer.step, loss])
        if trainer.step % recipe.save_every == 0:
            _keep(trainer, lab, checkpoint, spent, curve)
            kept = trainer.step
        if time.perf_counter() - said > PAUSE:
            said = time.perf_counter()
            end = f" of {recipe.steps:,}" if recipe.steps else ""
            stage = f", stage {trainer.rows.lesson + 1} of {len(trainer.lessons)}" if len(trainer.lessons) > 1 else ""
            say(f"step {trainer.step:,}{end}, {done:.0%}{stage}, loss {loss:.3f} nats an answer")
    if trainer.step > kept:
        _keep(trainer, lab, checkpoint, spent, curve)
    model, task = trainer.model.eval(), trainer.task
    told = {"task": lab.task, "options": lab.options, "seed": trainer.seed, "routing": routing[0], "version": 1}
    save(model, ByteTokenizer(), folder, beside={TRAINED: (json.dumps(told, indent=1) + "\n").encode("utf-8")})
    rows = []
    for length in lab.test:
        found = observe_loads(model, task, length, lab.items, trainer.seed, watch=routing[1])
        seen = [(trainer.seed, one) for one in found]
        rows += summary(task, [trainer.seed], seen)
    made = task.batch(1, max(lab.test), random_numbers(task.name, "test", trainer.seed, 0))
    routes = routing_map(model, torch.from_numpy(made.ids[0]).to(trainer.device))
    right, hits = ({str(n): _mean(rows, score, n) for n in lab.test} for score in ("right", "routing hit"))
    say(", ".join(f"{share:.3f} right at {length}" for length, share in right.items()))
    return {
        "right": right,
        "routing_hits": {n: hit for n, hit in hits.items() if hit is not None},
        "rows": rows,
        "routes": routes,
        "curve": curve,
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": spent,
        "device": str(trainer.device),
    }


def _keep(trainer: TokenTrainer, lab: Lab, path: Path, spent: float, curve: list[Any]) -> None:
    resume.save(trainer, path, {"seconds": spent, "curve": curve, "key": lab.key})


def _resumed(trainer: TokenTrainer, lab: Lab, path: Path) -> tuple[float, list[Any]]:
    """Seconds spent, and the curve. Raises CheckpointError, and ConfigError for the checkpoint of another recipe."""
    about = resume.restore(trainer, path)
    if "key" not in about:
        warnings.warn(f"{path} was written by an early version, which does not name its recipe", FormatWarning, stacklevel=4)
    elif about["key"] != lab.key:
        raise ConfigError(f"{path} is the checkpoint of another recipe; give another folder, or remove the file")
    curve = about.get("curve")
    if not isinstance(curve, list) or not all(isinstance(x, list) and len(x) == 2 for x in curve):
        raise CheckpointError(f"the training checkpoint {path} cannot be used: it has no curve")
    return about.get("seconds", 0.0), curve


def _mean(rows: list[dict[str, Any]], score: str, length: int) -> float | None:
    """The mean over all test streams of a length, whatever their load; None without any."""
    some = [row for row in rows if row["score"] == score and row["at"]["length"] == length]
    return float(np.average([row["mean"] for row in some], weights=[row["count"] for row in some])) if some else None
