"""Trains several configurations the same way: same text, same recipe, same seeds. A run resumes where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.model import LMConfig
from .loop import fit
from .recipe import Recipe
from .report import Display
from .setup import begin, can_resume, check_same, take_up


def train_same(
    configs: Mapping[str, Callable[[int], LMConfig]],
    texts: Sequence[str | Path],
    recipe: Recipe,
    folder: Path,
    seeds: int = 1,
    tokenizer: str = "bytes",
    device: str = "auto",
    display: Callable[[], Display] = lambda: Display(quiet=True),
) -> dict[str, list[Path]]:
    """Name -> run folders `folder/NAME/SEED`, trained to the end of the recipe.

    configs   name -> the configuration for a number of token ids
    Raises KeyboardInterrupt if a run was interrupted (it has a checkpoint), and as `begin`, `take_up`, `check_same` and `fit`.
    """
    out: dict[str, list[Path]] = {}
    for seed in range(seeds):  # all configurations have the same number of seeds at any time
        for name, configure in configs.items():
            place, way = folder / name / str(seed), dataclasses.replace(recipe, seed=seed)
            shown = display()
            shown.name = f"{name}, seed {seed}"
            if train_one(configure, texts, way, place, tokenizer, device, shown)["interrupted"]:
                raise KeyboardInterrupt
            out.setdefault(name, []).append(place)
    return out


def train_one(
    configure: Callable[[int], LMConfig],
    texts: Sequence[str | Path],
    recipe: Recipe,
    place: Path,
    tokenizer: str | Path = "bytes",
    device: str = "auto",
    display: Display | None = None,
    deadline: float | None = None,
    **given: Any,
) -> dict[str, Any]:
    """The receipt of the run in `place`, which is begun or taken up, and trained to the end of the recipe or to the deadline.

    configure   number of token ids -> the configuration
    tokenizer   see `begin`; the path of a file is not compared with that of the run
    given       further arguments of `begin`
    Raises as `begin`, `take_up`, `check_same` and `fit`.
    """
    if can_resume(place):
        ends = {"steps": recipe.steps, "minutes": recipe.minutes}
        run = take_up(place, {key: x for key, x in ends.items() if x is not None}, device=device)
        try:
            check_same(run, texts, None, tokenizer if isinstance(tokenizer, str) else None, configure)
        except BaseException:
            run.close()
            raise
    else:
        run = begin(place, texts, configure, recipe, tokenizer, device=device, **given)
    return fit(run, display, deadline=deadline)
