"""Trains several configurations the same way: same text, same recipe, same seeds. It resumes where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
            if can_resume(place):
                ends = {"steps": way.steps, "minutes": way.minutes}
                run = take_up(place, {key: x for key, x in ends.items() if x is not None}, device=device)
                try:
                    check_same(run, texts, None, tokenizer, configure)
                except BaseException:
                    run.close()
                    raise
            else:
                run = begin(place, texts, configure, way, tokenizer, device=device)
            shown = display()
            shown.name = f"{name}, seed {seed}"
            if fit(run, shown)["interrupted"]:
                raise KeyboardInterrupt
            out.setdefault(name, []).append(place)
    return out
