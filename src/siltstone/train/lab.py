"""The laboratory: trains the arms of a recipe on a token task, seed by seed, and tries them. It resumes where it stopped.

Each arm and seed has a run folder with a result of its own, so that processes can share a laboratory: a run is trained by the
process that claims its folder. `results.json` has all results and is made from those of the runs.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.interrupt import Interrupts
from ..core.machine import use_threads
from ..errors import ConfigError, InUse
from ..eval.arms import Arm, arms, build, configured, tricks
from ..eval.costs import costs
from ..eval.watch import watched
from ..io import claim
from ..io.atomic import write_json
from ..io.folder import make_folder, remove_file
from ..io.lock import LOCK
from ..io.sets import left_over, remove_left_over
from .lab_recipe import Lab, Stage
from .lab_recipes import RECIPES, easy, found_recipe, mqar, smoke
from .lab_run import RESULT, RESUME, SAVED, train_and_try
from .precision import chosen_device
from .results import read_result, write_result
from .token_trainer import Lesson, TokenTrainer

__all__ = [
    "RECIPES",
    "RESULTS",
    "Lab",
    "Stage",
    "Way",
    "chosen_arms",
    "easy",
    "found_recipe",
    "mqar",
    "results",
    "run_lab",
    "smoke",
]
RESULTS = "results.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """How a laboratory runs; results do not depend on it, but for rounding.

    device    "cpu", "cuda", "auto", ...
    jobs      processes that train at the same time
    deadline  `time.time()` at which training stops with a checkpoint; None: never
    """

    device: str = "cpu"
    jobs: int = 1
    deadline: float | None = None


def chosen_arms(lab: Lab) -> dict[str, Arm]:
    """The arms of a recipe by name. Raises ConfigError for an unknown one."""
    usual = {arm.name: arm for arm in arms(lab.config(), max(lab.train))}
    known = usual | {arm.name: arm for arm in tricks(lab.config(), max(lab.train))}
    for name in lab.arms:
        if name not in known:
            raise ConfigError(f"arm {name!r} is not known; choose from {list(known)}")
        if known[name].routing == "oracle" and not lab.made().located:
            raise ConfigError(f"arm {name!r} needs a task whose answers stand at one place, and {lab.task!r} has none")
    able = [name for name, arm in usual.items() if arm.routing != "oracle" or lab.made().located]
    return {name: known[name] for name in lab.arms or able}


def run_lab(lab: Lab, folder: str | Path, say: Say = lambda text: None, way: Way | None = None) -> dict[str, Any]:
    """Trains and tries what `folder` does not have yet; returns what the report needs, and keeps it in results.json.

    Each arm and seed becomes a run folder, which `siltstone eval` accepts. The result has "runs", and "missing": [arm, seed] of
    runs that are not finished, because of the deadline or an interruption, or because another process trains them.
    Raises ConfigError for an unknown arm, and if the folder has the results of another recipe; CheckpointError for results that
    are damaged.
    """
    folder, way = make_folder(Path(folder)), way or Way()
    chosen = chosen_arms(lab)
    results(lab, folder)
    todo = [(name, seed) for seed in lab.seeds for name in chosen if not _finished(_place(folder, name, seed))]
    if way.jobs > 1 and len(todo) > 1:
        _in_processes(lab, folder, todo, replace(way, jobs=min(way.jobs, len(todo))))
    else:
        with Interrupts() as stop:
            for at in todo:
                _one(lab, folder, at, way, say, lambda: bool(stop.asked))
            stop.check()
    found = results(lab, folder)
    write_json(folder / RESULTS, {key: x for key, x in found.items() if key != "missing"})
    return found


def results(lab: Lab, folder: Path) -> dict[str, Any]:
    """`{"key", "lab", "runs", "missing"}` of the recipe's arms and seeds, from the results of the runs. Raises as `run_lab`."""
    runs, missing = [], []
    for other in sorted(folder.glob(f"*/*/{RESULT}")):
        read_result(other, lab.key)
    for name in chosen_arms(lab):
        for seed in lab.seeds:
            path = _place(folder, name, seed) / RESULT
            if path.is_file():
                runs.append(read_result(path, lab.key))
            else:
                missing.append([name, seed])
    return {"key": lab.key, "lab": asdict(lab), "runs": runs, "missing": missing}


def lessons(lab: Lab) -> list[Lesson]:
    """What the models of a recipe are trained on before its task."""
    return [Lesson(lab.made(x), x.train, x.batch or lab.recipe.batch, x.below, x.until) for x in lab.stages]


def _place(folder: Path, name: str, seed: int) -> Path:
    return folder / name.replace(", ", "-").replace(" ", "-") / str(seed)


def _finished(place: Path) -> bool:
    """Whether a run has a result, and nothing besides that a process left which was killed."""
    besides = (place / RESUME).exists() or (place / LOCK).exists() or left_over(place, SAVED)
    return (place / RESULT).is_file() and not besides


def _one(lab: Lab, folder: Path, at: tuple[str, int], way: Way, say: Say, stopped: Callable[[], bool]) -> None:
    """Trains and tries one run, unless time is over or another process has its folder."""
    name, seed = at
    place = make_folder(_place(folder, name, seed))

    def over() -> bool:
        return stopped() or way.deadline is not None and time.time() >= way.deadline

    if over():
        return
    try:
        held = claim(place)
    except InUse:
        say(f"{name}, seed {seed}: another process trains it")
        return
    with held:
        if (place / RESULT).is_file():  # finished meanwhile, or by a process that was killed after it
            remove_file(place / RESUME)
            remove_left_over(place, SAVED)
            return
        arm, length = chosen_arms(lab)[name], max(lab.train)
        cfg = configured(lab.config(), arm, length)
        model = build(cfg, arm, seed).to(chosen_device(way.device))
        watch = watched(model, arm.routing)
        oracle = watch if arm.routing == "oracle" else None
        trainer = TokenTrainer(model, lab.made(), replace(lab.recipe, **arm.recipe), lab.train, seed, oracle, first=lessons(lab))
        label = f"{name}, seed {seed}"
        record = train_and_try(trainer, lab, place, (arm.routing, watch), lambda text: say(f"{label}: {text}"), over)
        if record is not None:
            record = {"arm": name, "seed": seed, **record, "costs": costs(cfg, length), "mlp_dim": cfg.hidden}
            write_result(place / RESULT, lab.key, record)
            remove_file(place / RESUME)


def _in_processes(lab: Lab, folder: Path, todo: list[tuple[str, int]], way: Way) -> None:
    """The runs in processes of their own, which say their progress on standard error."""
    threads = max(1, math.floor((os.cpu_count() or 1) / way.jobs))
    start = multiprocessing.get_context("spawn")
    with Interrupts(), ProcessPoolExecutor(way.jobs, start, initializer=_begin, initargs=(threads,)) as pool:
        for _ in pool.map(_work, [(lab, folder, at, way) for at in todo]):
            pass


def _begin(threads: int) -> None:
    use_threads(threads)


def _work(given: tuple[Lab, Path, tuple[str, int], Way]) -> None:
    import sys

    lab, folder, at, way = given
    with Interrupts() as stop:
        _one(lab, folder, at, way, lambda text: print(text, file=sys.stderr, flush=True), lambda: bool(stop.asked))
