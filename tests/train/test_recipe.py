"""Settings: the schedule, the end of a run, and what is refused."""

from __future__ import annotations

import pytest

from siltstone.errors import ConfigError
from siltstone.train import Recipe


def test_schedule() -> None:
    recipe = Recipe(steps=100, lr=1.0, warmup=0.1, floor=0.2)
    assert recipe.rate(0.05) == pytest.approx(0.5)
    assert recipe.rate(0.1) == pytest.approx(1.0)
    assert recipe.rate(0.55) == pytest.approx(0.6)
    assert recipe.rate(1.0) == recipe.rate(2.0) == pytest.approx(0.2)
    assert Recipe(steps=1, warmup=0).rate(0) == 3e-3


def test_the_end() -> None:
    assert Recipe(steps=10).done(5, 1e9) == 0.5
    assert Recipe(minutes=2).done(10**9, 60) == 0.5
    assert Recipe(steps=10, minutes=2).done(9, 60) == 0.9
    assert Recipe(steps=10, minutes=2).done(1, 120) == 1.0


def test_round_trip_and_parts() -> None:
    recipe = Recipe(steps=3, lr=1e-4, length=100, span=250)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.part == 300
    assert Recipe(steps=1).part == 16 * 512


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "steps and minutes"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 1, "batch": 0}, "batch=0"),
        ({"steps": 1, "length": 1.5}, "length=1.5"),
        ({"minutes": -1}, "minutes=-1"),
        ({"steps": 1, "lr": 0}, "lr=0"),
        ({"steps": 1, "lr": float("nan")}, "lr=nan"),
        ({"steps": 1, "foreign": 2}, "foreign=2"),
        ({"steps": 1, "seed": -1}, "seed=-1"),
        ({"steps": 1, "clip": 0}, "clip=0"),
        ({"steps": 1, "precision": "fp8"}, "precision='fp8'"),
        ({"steps": 1, "recompute": "all"}, "recompute='all'"),
        ({"steps": 1, "speed": 2}, "'speed' is not a setting"),
    ],
)
def test_bad_settings(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Recipe.from_dict(keys)
