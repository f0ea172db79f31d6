"""Linear biases: the paper's slopes, exact at any position, and no more memory than their distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siltstone.ops import alibi

DOUBLE = (torch.float64, torch.device("cpu"))


def test_slopes() -> None:
    assert alibi.slopes(8).tolist() == [2.0 ** -(h + 1) for h in range(8)]
    assert alibi.slopes(3).tolist() == [2.0 ** (-8 / 3), 2.0 ** (-16 / 3), 2.0**-8]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bias(dtype: torch.dtype) -> None:
    found = alibi.bias(np.array([[3, 0, -1]]), 2, dtype, DOUBLE[1])
    assert found.dtype == dtype and found.tolist() == [[[-3 / 16, 0, -float("inf")]], [[-3 / 256, 0, -float("inf")]]]


def test_backwards_is_a_view() -> None:
    """Queries at 1,006 and 6, and the four before each, towards keys at 0 to 8."""
    found = alibi.backwards(np.array([1006, 6]), 5, 9, 2, *DOUBLE)
    assert found.shape == (2, 2, 5, 9) and found.untyped_storage().nbytes() == 2 * 2 * 13 * 8
    for r, last in enumerate((1006, 6)):
        distance = (last - np.arange(5))[:, None] - np.arange(9)
        assert torch.equal(found[r], alibi.bias(distance, 2, *DOUBLE))
