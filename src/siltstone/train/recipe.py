"""The settings of a training run: one frozen dataclass, stored in the run's folder as JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..config.layer import whole
from ..errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run (the model's own are in its `LMConfig`).

    steps, minutes   end of the run: number of steps, minutes of training time, or whichever comes first
    batch            rows in a batch; each row reads its own document
    length           tokens of a row in one step; gradients do not reach further back, the state does
    span             longer documents are split into parts of `span` tokens, and a part begins like a document (default 16 length)
    foreign          share of document starts that get another row's final state instead of an empty one
    lr               peak learning rate; `warmup` is the share of the run in which it rises, `floor` the share left at the end
    decay            weight decay, only on matrices
    clip             maximum norm of the gradient
    precision        "auto" (bfloat16 if the CPU or GPU supports it, else float32), "fp32" or "bf16"
    copying          first steps, in which only rows of repeated strings are read (`siltstone.train.copying`): `batch * length`
                     tokens in rows of 256 to 1,024, which teach a model to look things up
    copies           rows of repeated strings beside the text in each later step, with a quarter of the weight
    dense            share of the run in which cache="sparse" reads every checkpoint; in as long a time again, the number that it
                     reads falls to `top_k` (`siltstone.train.aids`)
    routing_loss     weight of the cost by which a sparse choice learns to rank checkpoints by what is read of them
                     (`siltstone.train.aids`), in steps that read all of them; needs `dense`
    window_dropout   share of steps in which memory layers leave out what their window says
    random_windows   share of steps in which memory layers see only the last tokens of their window; how many is drawn for a step
    far              tokens of rows, beside the text in each later step, whose strings come again only beyond the window; with
                     0.6 of the weight
    grown_lr         learning rate, as a multiple of `lr`, of the layers that the weights of `init` do not have
    recompute        "none", or "segment": only the activations of one segment are kept, and the others are recomputed
    save_every, valid_every   steps between checkpoints and between validations
    valid_tokens     tokens of held-out text that a validation reads, shared evenly by the documents
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    length: int = 512
    span: int | None = None
    foreign: float = 0.1
    seed: int = 0
    lr: float = 3e-3
    warmup: float = 0.03
    floor: float = 0.05
    decay: float = 0.1
    clip: float = 1.0
    precision: str = "auto"
    copying: int = 0
    copies: int = 0
    dense: float = 0.0
    routing_loss: float = 0.0
    window_dropout: float = 0.0
    random_windows: float = 0.0
    far: int = 0
    grown_lr: float = 1.0
    recompute: str = "none"
    save_every: int = 100
    valid_every: int = 200
    valid_tokens: int = 65536

    def __post_init__(self) -> None:
        for key in ("batch", "length", "save_every", "valid_every", "valid_tokens"):
            whole(key, getattr(self, key), 1)
        for key in ("seed", "copying", "copies", "far"):
            whole(key, getattr(self, key), 0)
        for key in ("steps", "span"):
            if getattr(self, key) is not None:
                whole(key, getattr(self, key), 1)
        if self.steps is None and self.minutes is None:
            raise ConfigError("steps and minutes are both missing; give the number of steps, or the minutes of training")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ConfigError(f"minutes={self.minutes!r} must be more than 0")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr={self.lr!r} must be more than 0; 3e-3 suits small models, 3e-4 large ones")
        if not 0 < self.grown_lr < math.inf:
            raise ConfigError(f"grown_lr={self.grown_lr!r} must be more than 0: 1 is the learning rate of all other layers")
        for key in ("foreign", "warmup", "floor", "dense", "window_dropout", "random_windows"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"{key}={getattr(self, key)!r} must be a share between 0 and 1")
        if not 0 <= self.decay < math.inf or not 0 < self.clip:
            raise ConfigError(f"decay={self.decay!r} must be at least 0 and clip={self.clip!r} more than 0")
        if not 0 <= self.routing_loss < math.inf:
            raise ConfigError(f"routing_loss={self.routing_loss!r} must be at least 0; 1 is a beginning")
        if self.routing_loss and not self.dense:
            raise ConfigError(
                "routing_loss needs steps that read all checkpoints, and dense=0 has none; give dense=0.4, or leave it out"
            )
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"precision={self.precision!r} is not known; choose 'auto', 'fp32' or 'bf16'")
        if self.recompute not in ("none", "segment"):
            raise ConfigError(f"recompute={self.recompute!r} is not known; choose 'none' or 'segment'")
        if self.routing_loss and self.recompute != "none":
            raise ConfigError("routing_loss needs the activations of all segments; choose recompute='none', or routing_loss=0")

    @property
    def part(self) -> int:
        """Tokens of the longest part of a document: `span`, rounded up to a multiple of `length`."""
        return -(-(self.span or 16 * self.length) // self.length) * self.length

    def rate(self, fraction: float) -> float:
        """The learning rate when `fraction` of the run is done: linear warm-up, then cosine decay to the floor."""
        if fraction < self.warmup:
            return self.lr * fraction / self.warmup
        through = min(1.0, (fraction - self.warmup) / max(1e-9, 1 - self.warmup))
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * through)))

    def done(self, step: float, seconds: float) -> float:
        """Fraction of the run that is done after `step` steps and `seconds` of training; the run ends at 1."""
        by_steps = step / self.steps if self.steps else 0.0
        return max(by_steps, seconds / (60 * self.minutes) if self.minutes else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, keys: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`; missing keys take their defaults, unknown ones raise ConfigError."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(keys) - known):
            raise ConfigError(f"{unknown[0]!r} is not a setting of a training run; the settings are {sorted(known)}")
        return cls(**keys)
