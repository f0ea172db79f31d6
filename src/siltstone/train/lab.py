"""The laboratory: trains the arms of a recipe on a token task, seed by seed, and tries them. It resumes where it stopped."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config.layer import whole
from ..config.model import LMConfig
from ..core.interrupt import Interrupts
from ..errors import CheckpointError, ConfigError, DataError, FormatWarning, InputError, SiltstoneError
from ..eval.arms import arms, build, configured, costs
from ..eval.run import TRAINED, make, observe_tokens, summary
from ..eval.tasks.base import TokenTask, random_numbers
from ..io import claim
from ..io.folder import make_folder, remove_file
from ..models.checkpoint import save
from ..text import ByteTokenizer
from ..text.library import quoted
from . import resume
from .recipe import Recipe
from .results import read_results, write_results
from .token_trainer import TokenTrainer

RESULTS, RESUME = "results.json", "training.safetensors"


@dataclass(frozen=True)
class Lab:
    """A question, and how it is answered.

    question   what the report says first
    task       name of a token task; `options`: its options
    base       keys of the base configuration, without vocab_size; its parameters are those of every arm
    train      lengths of training streams, one drawn a step
    test       lengths on which each model is tried
    recipe     steps or minutes, rows in a batch, learning rate, steps between checkpoints (the other settings are not used)
    arms       names of arms (`siltstone.eval.arms`); empty: all
    seeds      seeds of weights and of training data
    items      test streams of each length
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

    def __post_init__(self) -> None:
        for key in ("train", "test", "seeds"):
            given = getattr(self, key)
            if not given or not all(isinstance(x, int) and not isinstance(x, bool) and x >= (key != "seeds") for x in given):
                raise ConfigError(f"{key}={given!r} must be whole numbers, at least one of them, for example (64, 128)")
        whole("items", self.items, 1)
        if not isinstance(self.recipe, Recipe):
            raise ConfigError(f"recipe is a {type(self.recipe).__name__}, and must be a siltstone.train.recipe.Recipe")
        try:
            json.dumps(asdict(self), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"a recipe must have values of JSON alone: {quoted(error)}") from None
        self.made()

    def made(self) -> TokenTask:
        """The task."""
        task = make(self.task, self.options)
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


RECIPES: dict[str, Callable[[], Lab]] = {"smoke": smoke, "easy": easy, "mqar": mqar}


def found_recipe(name: str) -> Lab:
    """The recipe of this name, or `FILE.py:FUNCTION`: a function without arguments that returns a `Lab`."""
    if name in RECIPES:
        return RECIPES[name]()
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"recipe {name!r} is not known; choose one of {list(RECIPES)}, or give FILE.py:FUNCTION")
    if not Path(file).is_file():
        raise DataError(f"{file} does not exist; give a Python file with a function {function!r} that returns a Lab")
    spec = importlib.util.spec_from_file_location("siltstone_recipe", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function, None)
        lab = made() if callable(made) else None
    except SiltstoneError:
        raise
    except Exception as error:  # of the recipe's own code
        raise InputError(f"{file} cannot be run: {type(error).__name__}: {quoted(error)}") from error
    if not isinstance(lab, Lab):
        raise InputError(f"{file} has no function {function!r} that returns a siltstone.train.lab.Lab")
    return lab


def run_lab(lab: Lab, folder: str | Path, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Trains and tries what `folder` does not have yet; returns what the report needs, and keeps it in results.json.

    Each arm and seed becomes a run folder, which `siltstone eval` accepts. A signal that stops the process takes effect after a
    step, when the step is saved. Raises ConfigError for an unknown arm, and if the folder has results or a checkpoint of another
    recipe; CheckpointError if they cannot be used; InUse if another process writes to the folder.
    """
    folder, base, length = make_folder(Path(folder)), lab.config(), max(lab.train)
    known = {arm.name: arm for arm in arms(base, length)}
    for name in lab.arms:
        if name not in known:
            raise ConfigError(f"arm {name!r} is not known; choose from {list(known)}")
    path = folder / RESULTS
    with claim(folder), Interrupts() as stop:
        found = {"key": lab.key, "lab": asdict(lab), "runs": read_results(path, lab.key)}
        for name in lab.arms or known:
            for seed in lab.seeds:
                at = folder / name.replace(", ", "-").replace(" ", "-") / str(seed)
                if not any((run["arm"], run["seed"]) == (name, seed) for run in found["runs"]):
                    say(f"{name}, seed {seed}")
                    cfg = configured(base, known[name], length)
                    trainer = TokenTrainer(build(cfg, known[name], seed), lab.made(), lab.recipe, lab.train, seed)
                    told = {"task": lab.task, "options": lab.options, "seed": seed, "routing": known[name].routing, "version": 1}
                    record = {"arm": name, "seed": seed, **_trained(trainer, lab, make_folder(at), told, say, stop)}
                    found["runs"].append(record | {"costs": costs(cfg, length), "mlp_dim": cfg.hidden})
                    write_results(path, found)
                if (at / RESUME).exists():
                    remove_file(at / RESUME)
    wanted = {*(lab.arms or known)}
    return found | {"runs": [run for run in found["runs"] if run["arm"] in wanted and run["seed"] in lab.seeds]}


def _trained(
    trainer: TokenTrainer, lab: Lab, folder: Path, told: dict[str, Any], say: Callable[[str], None], stop: Interrupts
) -> dict[str, Any]:
    """Trains one model to the end, from its checkpoint if there is one, saves it, and tries it. told: facts for TRAINED."""
    checkpoint, spent, curve, saved = folder / RESUME, 0.0, [], -1
    if checkpoint.is_file():
        spent, curve = _resumed(trainer, lab, checkpoint)
        saved = trainer.step
        say(f"  resumed at step {trainer.step:,}")
    began, recipe = time.perf_counter() - spent, lab.recipe
    while not stop.asked and (done := recipe.done(trainer.step, spent)) < 1:
        loss = trainer.advance(done)
        spent = time.perf_counter() - began
        if trainer.step % max(1, recipe.save_every // 10) == 0:
            curve.append([trainer.step, loss])
        if trainer.step % recipe.save_every == 0:
            _keep(trainer, lab, checkpoint, spent, curve)
            saved = trainer.step
            say(f"  step {trainer.step:,}: {loss:.3f} nats")
    if saved != trainer.step:
        _keep(trainer, lab, checkpoint, spent, curve)
    stop.check()
    model, task = trainer.model.eval(), trainer.task
    save(model, ByteTokenizer(), folder, beside={TRAINED: (json.dumps(told, indent=1) + "\n").encode("utf-8")})
    rows = []
    with stop.waiting():  # what was trained is saved
        for length in lab.test:
            by = random_numbers(task.name, "test", trainer.seed, length)
            seen = [(trainer.seed, one) for one in observe_tokens(model, task, length, lab.items, by)]
            rows += summary(task, [trainer.seed], seen)
    right = {str(n): _mean(rows, n) for n in lab.test}
    return {"right": right, "rows": rows, "curve": curve, "steps": trainer.step, "tokens": trainer.tokens, "seconds": spent}


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


def _mean(rows: list[dict[str, Any]], length: int) -> float:
    """The mean over all test streams of a length, whatever their load."""
    some = [row for row in rows if row["score"] == "right" and row["at"]["length"] == length]
    return float(np.average([row["mean"] for row in some], weights=[row["count"] for row in some]))
