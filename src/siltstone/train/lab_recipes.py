"""The recipes that `siltstone lab` knows by name, and how those of a file are found."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ..errors import DataError, InputError, SiltstoneError
from ..text.library import quoted
from .lab_recipe import Lab, Stage
from .recipe import Recipe


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
    """Up to 64 pairs in 256 tokens, after few ids and pairs: eight arms, five seeds, some minutes a run on a core."""
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


def tricks() -> Lab:
    """What helps: sparse and gated caches with and without aids of training, on the task of `mqar256`."""
    lab = mqar256()
    names = ("sparse", "sparse, dense first", "sparse, dense first, routing loss", "sparse, anchor keys")
    names += ("gated", "gated, window dropout", "gated, random windows", "gated, softmax", "gated, half the window")
    names += ("gated, no convolution", "gated, exact pairs")
    base, recipe = lab.base | {"checkpoint_dtype": "float32"}, replace(lab.recipe, dense=0.0)
    return replace(lab, question="Which ways of training help a model to recall?", base=base, recipe=recipe, arms=names)


def needles() -> Lab:
    """Does a choice of four checkpoints find what the oracle's finds? Up to 16 needles in 512 tokens; some minutes a run."""
    base = dict(d_model=64, heads=2, depth=2, mlp_dim=640, window=16, segment=32, segments="constant", tie=False, short_conv=4)
    base |= dict(memory="gated_delta", cache="sparse", top_k=4, router_dim=32)
    options = dict(symbols=256, fillers=64, loads=(4, 8, 16), asked=4)
    few = dict(symbols=64, fillers=16, asked=8)
    stages = (
        Stage((64,), few | dict(loads=(4, 8)), 32, until=0.2),
        Stage((128,), dict(loads=(4, 8), asked=8), 32, until=0.3),
        Stage((256,), dict(loads=(4, 8, 16), asked=8), 16, until=0.4),
    )
    recipe = Recipe(steps=1500, batch=8, lr=5e-3, dense=0.48, routing_loss=1.0, save_every=50)
    names = ("sparse", "sparse, oracle routing", "sparse, random routing", "gated", "one state of equal bytes", "transformer")
    question = "Does a choice of four checkpoints find needles as the oracle's does?"
    return Lab(
        question,
        "token_needles",
        base,
        recipe,
        (512,),
        (512, 1024),
        options,
        arms=names,
        seeds=(0, 1, 2),
        items=32,
        stages=stages,
    )


def far() -> Lab:
    """Trained as `needles`, on at most 512 tokens, and tried in 65,536; some minutes a run on a core."""
    names = ("sparse", "sparse, random routing", "plain recurrence", "one state of equal bytes", "window only")
    question, test = "Trained on at most 512 tokens, which arms find needles in 65,536?", (1024, 4096, 16384, 65536)
    return replace(needles(), question=question, test=test, arms=names, items=8)


RECIPES: dict[str, Callable[[], Lab]] = {
    each.__name__: each for each in (smoke, easy, small, mqar, mqar256, tricks, needles, far)
}


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
