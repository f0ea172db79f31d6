"""Intervals over seeds, against Student's t computed by hand."""

from __future__ import annotations

import pytest

from siltstone.eval.intervals import STUDENT, over_seeds, spoken


def test_half_an_interval_by_hand() -> None:
    assert over_seeds([0.0, 1.0, 2.0]) == pytest.approx(4.302653 / 3**0.5)  # standard deviation 1
    assert over_seeds([1.0] * 5) == 0.0
    assert over_seeds([0.5, 0.7]) is None and over_seeds([0.5] * 11) is None
    assert list(STUDENT) == sorted(STUDENT, reverse=True) and len(STUDENT) == 8


def test_it_covers_the_mean_in_95_of_100_draws() -> None:
    import numpy as np

    by, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        values = by.normal(3.0, 2.0, 5)
        half = over_seeds(values.tolist())
        assert half is not None
        hits += abs(values.mean() - 3.0) <= half
    assert 0.935 < hits / 2000 < 0.965


def test_what_is_said() -> None:
    assert spoken([0.5]) == "0.500 (0.500)"
    assert spoken([0.0, 0.5, 1.0]) == "0.500 ± 1.242 (0.000, 0.500, 1.000)"
