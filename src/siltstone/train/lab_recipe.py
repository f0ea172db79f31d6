"""What a recipe of the laboratory is: a question, a token task, arms and seeds. `siltstone.train.lab` runs it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config.layer import whole
from ..config.model import LMConfig
from ..errors import ConfigError
from ..eval.run import make
from ..eval.tasks.base import TokenTask
from ..text import ByteTokenizer
from ..text.library import quoted
from .recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """An easier task before that of the recipe. It ends when the mean cost of the last 25 steps is below `below` nats an answer,
    or at `until`, a share of the run.

    train    lengths of training streams
    options  options of the task that differ from the recipe's
    batch    rows in a batch; None: those of the recipe
    """

    train: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None
    below: float = 0.9
    until: float = 0.5

    def __post_init__(self) -> None:
        lengths("train", self.train)
        if self.batch is not None:
            whole("batch", self.batch, 1)
        if not 0 < self.below < math.inf:
            raise ConfigError(f"below={self.below!r} must be more than 0 nats an answer")
        if not 0 < self.until <= 1:
            raise ConfigError(f"until={self.until!r} must be a share of the run, more than 0 and at most 1")


def lengths(key: str, given: Any, least: int = 1) -> None:
    """ConfigError unless `given` are whole numbers, each at least `least`, and there is one."""
    if not given or not all(isinstance(x, int) and not isinstance(x, bool) and x >= least for x in given):
        raise ConfigError(f"{key}={given!r} must be whole numbers, at least one of them, for example (64, 128)")


@dataclass(frozen=True)
class Lab:
    """A question, and how it is answered.

    question   what the report says first
    task       name of a token task; `options`: its options
    base       keys of the base configuration, without vocab_size; its parameters are those of every arm
    train      lengths of training streams, one drawn a step
    test       lengths on which each model is tried
    recipe     steps or minutes, rows in a batch, learning rate, steps between checkpoints (the other settings are not used)
    arms       names of arms (`siltstone.eval.arms`); empty: all that the task can have
    seeds      seeds of weights and of training data
    items      test streams of each length and load
    stages     easier tasks that each model is trained on first, one after the other
    """

    question: str
    task: str
    base: dict[str, Any]
    recipe: Recipe
    train: tuple[int, ...] = (64,)
    test: tuple[int, ...] = (64, 128)
    options: dict[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    items: int = 64
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        for key in ("train", "test", "seeds"):
            lengths(key, getattr(self, key), int(key != "seeds"))
        whole("items", self.items, 1)
        if not isinstance(self.recipe, Recipe):
            raise ConfigError(f"recipe is a {type(self.recipe).__name__}, and must be a siltstone.train.recipe.Recipe")
        try:
            json.dumps(asdict(self), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"a recipe must have values of JSON alone: {quoted(error)}") from None
        for stage in (None, *self.stages):
            if (ids := self.made(stage).vocab_size) > self.made().vocab_size:
                raise ConfigError(f"a stage has {ids} ids, more than the {self.made().vocab_size} of the recipe's task")

    @classmethod
    def from_dict(cls, keys: dict[str, Any]) -> Lab:
        """The inverse of `dataclasses.asdict`, from JSON."""
        given: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in keys.items()}
        stages = tuple(Stage(**{**stage, "train": tuple(stage["train"])}) for stage in keys.get("stages", ()))
        return cls(**{**given, "recipe": Recipe.from_dict(keys["recipe"]), "stages": stages})

    def made(self, stage: Stage | None = None) -> TokenTask:
        """The task, or that of a stage."""
        task = make(self.task, self.options | (stage.options if stage is not None else {}))
        if not isinstance(task, TokenTask):
            raise ConfigError(f"task={self.task!r} is a text task, and the laboratory trains on token tasks, for example 'mqar'")
        return task

    def config(self) -> LMConfig:
        """The base configuration. It has at least the ids of the byte tokenizer, with which run folders are saved."""
        return LMConfig.from_dict({**self.base, "vocab_size": max(self.made().vocab_size, ByteTokenizer().vocab_size)})

    @property
    def key(self) -> str:
        """A hash of everything that results depend on, but not of the seeds, arms and the number of steps between saves."""
        keys = asdict(self)
        for name in ("question", "seeds", "arms"):
            del keys[name]
        del keys["recipe"]["save_every"]
        if not self.stages:
            del keys["stages"]  # results of earlier versions stay valid, here and for settings of training
        for name in ("dense", "routing_loss", "window_dropout", "random_windows"):
            if not keys["recipe"][name]:
                del keys["recipe"][name]
        return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()
