"""The training loop: steps, validations, checkpoints. An interrupted and resumed run gives the same result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..core.interrupt import Interrupts
from ..core.plain import plain
from ..eval.stream import score_documents
from ..io import claim, write_json
from ..models.checkpoint import model_fingerprint, save
from ..models.lm import LM
from ..text import cut_table
from .precision import autocast, chosen, chosen_device
from .report import Display, Metrics
from .setup import METRICS, RECEIPT, Run
from .sinks import SINKS
from .starting import load_starting_weights
from .trainer import Trainer


def fit(run: Run, display: Display | None = None, sinks: Sequence[str] = (), deadline: float | None = None) -> dict[str, Any]:
    """Trains to the end of the recipe, from the run's checkpoint if there is one; returns the receipt.

    Afterwards the folder can be loaded with `siltstone.load`. On the same machine, with the same number of threads (torch's
    setting, which is not changed) and of steps, a run that was killed and resumed gives the same bits as one that was not. A run
    by minutes is not reproducible, as its learning rate depends on the time. Ctrl-C saves a checkpoint and returns with
    `receipt["interrupted"]` true and the signal's number in `receipt["signal"]`, unless the run was complete; SIGTERM and SIGHUP
    do the same if the program has installed a handler for them. A validation that was interrupted is made when the run resumes.
    sinks: names of further places for figures, "tensorboard" and "trackio" (`siltstone.train.sinks`).
    deadline: a time (`time.time()`) at which the run stops as after Ctrl-C, with `receipt["signal"]` None.
    Raises StorageError, and ConfigError if the loss is nan or infinite or the package of a sink is missing.
    """
    held, run.claim = run.claim or claim(run.folder), None
    with held:
        return _fit(run, display or Display(quiet=True), sinks, deadline)


def _fit(run: Run, display: Display, sinks: Sequence[str], deadline: float | None) -> dict[str, Any]:
    recipe = run.recipe
    device = chosen_device(run.device)
    torch.manual_seed(recipe.seed)
    grown = (run.init or {}).get("grown", 0)
    trainer = Trainer(LM(run.cfg).to(device).train(), run.train, recipe, grown)
    before = 0.0
    if run.checkpoint.exists():
        before = trainer.restore(run.checkpoint)["seconds"]
    elif run.init is not None:
        load_starting_weights(trainer.model, run.init)
    begun, first_token = time.monotonic(), trainer.tokens
    saved = -1

    def seconds() -> float:
        return before + time.monotonic() - begun

    def stopped() -> bool:
        return stop.asked or deadline is not None and time.time() >= deadline

    def validated() -> bool:
        """Whether no text is held out, or the model of this step was validated."""
        known = metrics.valid.get("valid_tokens", recipe.valid_tokens) == recipe.valid_tokens
        return run.valid is None or (known and metrics.valid["step"] == trainer.step)

    def validate(due: bool) -> None:
        if due and not stopped() and not validated():
            _validate(run, trainer, stopped, metrics, display)

    def keep() -> None:
        trainer.save(run.checkpoint, seconds=seconds())
        save(trainer.model, run.tokenizer, run.folder)

    display.end = recipe.steps
    opened = [SINKS[name](run.folder, trainer.step) for name in sinks]
    with Interrupts() as stop, Metrics(run.folder / METRICS, trainer.step, opened) as metrics, display:
        validate(trainer.step > 0 and trainer.step % recipe.valid_every == 0)  # if an interrupt prevented it
        while not stopped() and recipe.done(trainer.step, seconds()) < 1:
            started = time.monotonic()
            figures = trainer.advance(recipe.done(trainer.step + 0.5, seconds()))
            record = _record(trainer, figures, time.monotonic() - started, seconds())
            metrics.write(record)
            display.show(recipe.done(trainer.step, seconds()), record, metrics.bits_per_byte)
            validate(trainer.step % recipe.valid_every == 0)
            if trainer.step % recipe.save_every == 0:
                keep()
                saved = trainer.step
        if saved != trainer.step:
            keep()
        done = recipe.done(trainer.step, seconds()) >= 1
        validate(done)
    spent = time.monotonic() - begun
    interrupted = (stop.asked or deadline is not None) and not (done and validated())
    receipt = {
        "interrupted": interrupted,
        "signal": stop.number if interrupted else None,
        "steps": trainer.step,
        "epochs": trainer.tokens / run.train.tokens,
        "tokens": trainer.tokens,
        "seconds": seconds(),
        "tokens_per_s": (trainer.tokens - first_token) / spent,
        "train_bytes": run.train.bytes,
        "train_bits_per_byte": metrics.bits_per_byte,
        "recent_steps": len(metrics.recent),
        "valid_bits_per_byte": metrics.valid["valid_bits_per_byte"],
        "valid_bytes": metrics.valid["valid_bytes"],
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "state_bytes": trainer.state.nbytes // recipe.batch if trainer.state else 0,
        "state_positions": [int(f(trainer.state.position)) for f in (min, max)] if trainer.state else [0, 0],
        "precision": chosen(recipe.precision, device),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "fingerprint": model_fingerprint(trainer.model),
        "folder": str(run.folder),
    }
    receipt = plain(receipt)
    write_json(run.folder / RECEIPT, receipt)
    return receipt


def _record(trainer: Trainer, figures: dict[str, float], took: float, seconds: float) -> dict[str, Any]:
    recipe = trainer.recipe
    return {
        "step": trainer.step,
        "loss": figures["loss"],
        "bits_per_byte": figures["bits"] / max(1, figures["bytes"]),
        "bytes": figures["bytes"],
        "lr": figures["lr"],
        "grad_norm": figures["grad_norm"],
        "tokens": trainer.tokens,
        "tokens_per_s": recipe.batch * recipe.length / took,
        "state_bytes": trainer.state.nbytes // recipe.batch if trainer.state else 0,
        "seconds": round(seconds, 3),
    }


def _validate(run: Run, trainer: Trainer, stopped: Callable[[], bool], metrics: Metrics, display: Display) -> None:
    """Streams held-out documents, each from its beginning, up to `valid_tokens` tokens in all, and writes the score to the
    metrics, unless it was interrupted."""
    assert run.valid is not None
    recipe, valid = run.recipe, run.valid
    share = max(2, recipe.valid_tokens // len(valid.documents))
    documents = [valid.document(i, share) for i in range(len(valid.documents))]
    cast = autocast(recipe.precision, trainer.device)
    trainer.model.eval()
    cuts = cut_table(run.cfg, run.tokenizer)
    sizes = [valid.bytes_of(d.start + 1, d.start + len(ids)) for d, ids in zip(valid.documents, documents, strict=True)]
    score = score_documents(trainer.model, documents, sizes, recipe.length, recipe.batch, cast, stop=stopped, cuts=cuts)
    trainer.model.train()
    if score is not None:
        found = {"valid_bits_per_byte": score.bits_per_byte, "valid_bytes": score.bytes, "valid_tokens": recipe.valid_tokens}
        metrics.write({"step": trainer.step} | found)
        display.say(f"step {trainer.step:,}: {score.bits_per_byte:.4f} bits per byte held out ({score.tokens:,} tokens)")
