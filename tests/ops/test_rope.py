"""Rotations depend on differences of positions alone, at any position."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from siltstone.ops import rope


@pytest.mark.parametrize("offset", [0, 10_000_000, 2**40])
def test_scores_depend_on_the_distance_alone(offset: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    near = torch.float64, torch.device("cpu")

    def score(at: int, distance: int) -> float:
        a = rope.rotate(q, rope.rotation(np.array([[at]]), 16, *near))
        b = rope.rotate(k, rope.rotation(np.array([[at - distance]]), 16, *near))
        return float((a * b).sum())

    for distance in (0, 1, 7, 100):
        assert math.isclose(score(offset + 200, distance), score(200, distance), abs_tol=1e-12)


def test_frequencies_are_the_textbook_ones() -> None:
    turns = rope.frequencies(64) / rope.TURN
    want = 10000.0 ** (-np.arange(0, 64, 2) / 64) / (2 * math.pi)
    assert np.abs(turns / want - 1).max() < 1e-4
