"""Recipes of the laboratory: a question, a token task, arms and seeds. `siltstone.train.lab` runs them."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config.layer import whole
from ..config.model import LMConfig
from ..errors import ConfigError, DataError, InputError, SiltstoneError
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
        for name in ("dense", "routing_loss", "window_dropout"):
            if not keys["recipe"][name]:
                del keys["recipe"][name]
        return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def smoke() -> Lab:
    """Seconds: shows that everything runs, and proves nothing."""
    base = dict(d_model=32, heads=2, depth=2, mlp_dim=96, window=8, segment=16, segments="constant")
    recipe = Recipe(steps=4, batch=4, save_every=2)
    options = dict(vocab_size=64, loads=(4,))
    return Lab("Does every arm run?", "mqar", base, recipe, (32,), (32, 64), options, items=4)


def mqar() -> Lab:
    """Which arms recall? MQAR at 256 tokens with mixed loads; some hours on two cores for all arms and seeds."""
    base = dict(d_model=64, heads=2, depth=2, mlp_dim=192, window=16, segment=16, segments="constant", tie=False, short_conv=4)
    options = dict(vocab_size=512, loads=(8, 16, 32, 64), fillers="zero")
    recipe = Recipe(steps=2700, batch=16, save_every=300)
    return Lab("Which arms recall pairs?", "mqar", base, recipe, (256,), (256, 512, 1024), options, seeds=(0, 1, 2, 3, 4))


def easy() -> Lab:
    """A minute: a transformer learns MQAR of four pairs, which proves the task and the trainer."""
    base = dict(d_model=64, heads=2, depth=2, mlp_dim=128, window=16, segment=16, segments="constant", tie=False, short_conv=4)
    options = dict(vocab_size=64, loads=(4,), fillers="zero")
    recipe = Recipe(steps=600, batch=32, save_every=200)
    return Lab("Does a transformer learn MQAR?", "mqar", base, recipe, (32,), (32,), options, arms=("transformer",), items=128)


def small() -> Lab:
    """Minutes: four or eight pairs, most of them beyond a window of eight tokens."""
    base = dict(d_model=48, heads=2, depth=2, mlp_dim=96, window=8, segment=8, segments="constant", tie=False, short_conv=4)
    options = dict(vocab_size=64, loads=(4, 8), fillers="zero")
    recipe = Recipe(steps=800, batch=32, save_every=100)
    names = ("transformer", "window only", "plain recurrence", "one state of equal bytes", "gated", "gated, sub-blocks")
    names += ("sparse", "sparse, random routing", "sparse, oracle routing")
    base |= dict(cache="sparse", top_k=2)
    return Lab("Which arms recall a few pairs?", "mqar", base, recipe, (64,), (64, 128), options, arms=names)


def mqar256() -> Lab:
    """Up to 64 pairs in 256 tokens, after few ids and pairs: eight arms, five seeds, about ten minutes a run on a core."""
    base = dict(d_model=64, heads=2, depth=2, mlp_dim=192, window=16, segment=32, segments="constant", tie=False, short_conv=4)
    base |= dict(memory="gated_delta", cache="sparse", top_k=4, checkpoint_dtype="bfloat16")
    options = dict(vocab_size=512, loads=(8, 16, 32, 64), fillers="zero")
    recipe = Recipe(steps=1500, batch=16, lr=5e-3, dense=0.3, save_every=50)
    stages = (
        Stage((64,), dict(vocab_size=64, loads=(4, 8)), 32, until=0.3),
        Stage((64,), dict(loads=(8, 16)), 32, until=0.4),
        Stage((128,), dict(loads=(8, 16, 32)), 32, until=0.6),
    )
    names = ("transformer", "window only", "plain recurrence", "one state of equal bytes", "gated", "gated, sub-blocks")
    names += ("sparse", "exact")
    question, tests = "Which arms learn up to 64 pairs in 256 tokens, from few pairs on?", (256, 512, 1024)
    seeds = (0, 1, 2, 3, 4)
    return Lab(question, "mqar", base, recipe, (256,), tests, options, arms=names, seeds=seeds, items=48, stages=stages)


RECIPES: dict[str, Callable[[], Lab]] = {"smoke": smoke, "easy": easy, "small": small, "mqar": mqar, "mqar256": mqar256}


def found_recipe(name: str) -> Lab:
    """The recipe of this name, or `FILE.py:FUNCTION`: a function without arguments that returns a `Lab`.

    Raises InputError if the code of the file fails, DataError if there is no file.
    """
    if name in RECIPES:
        return RECIPES[name]()
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"recipe {name!r} is not known; choose one of {list(RECIPES)}, or give FILE.py:FUNCTION")
    if not Path(file).is_file():
        raise DataError(f"{file} does not exist; give a Python file with a function {function!r} that returns a Lab")
    module = ModuleType("siltstone_recipe")
    module.__file__, sys.modules[module.__name__] = file, module
    try:
        exec(compile(Path(file).read_bytes(), file, "exec"), vars(module))
        made = getattr(module, function, None)
        lab = made() if callable(made) else None
    except SiltstoneError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{file} cannot be run{_place(error, file)}: {type(error).__name__}: {quoted(error)}") from error
    if not isinstance(lab, Lab):
        raise InputError(f"{file} has no function {function!r} that returns a siltstone.train.lab.Lab")
    return lab


def _place(error: BaseException, file: str) -> str:
    """ ", line N": where the file's code was when it failed."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno}"
    lines = [step.lineno for step in traceback.extract_tb(error.__traceback__) if step.filename == file]
    return f", line {lines[-1]}" if lines else ""
