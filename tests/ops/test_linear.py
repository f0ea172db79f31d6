"""The equation of ops/linear.py."""

from __future__ import annotations

import pytest
import torch

from siltstone.ops import linear

from .rule import KEY, VALUE, Rule, laws, unit

RULE = Rule(linear.step, linear.chunk, lambda rand: {"key": unit(rand(KEY)), "value": rand(VALUE)})


TestLaws = laws(RULE)


@pytest.mark.parametrize("feature", ["elu", "softmax"])
def test_a_normalised_read_is_a_mean_of_values(feature: str) -> None:
    """With weights f(q) f(k), as in eq. 4 of arXiv 2006.16236; the column of ones sums the keys up."""
    f, (q, k) = linear.FEATURES[feature], torch.randn(2, 5, KEY, dtype=torch.float64)
    v = torch.randn(5, VALUE, dtype=torch.float64)
    matrix = torch.zeros(KEY, VALUE + 1, dtype=torch.float64)
    for t in range(5):
        matrix = linear.step(matrix, f(k[t]), torch.cat([v[t], v.new_ones(1)]))
    weights = f(q) @ f(k).T
    wanted = weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(linear.normalised(f(q) @ matrix), wanted, rtol=1e-12, atol=1e-12)
