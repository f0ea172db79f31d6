"""Softmax attention, against sums over the tokens that each query sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from siltstone.ops import alibi, attention, window

R, H, J, K, V = 2, 4, 2, 3, 5
SCALE = 0.7


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def one(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """q [K], keys [N, K], values [N, V]."""
    return torch.softmax(SCALE * keys @ q + bias, 0) @ values


@pytest.mark.parametrize("biases", [False, True], ids=["plain", "alibi"])
def test_a_past_and_new_tokens(biases: bool) -> None:
    torch.manual_seed(0)
    start, tokens = np.array([3, 1]), 4
    q, k, v = rand(R, H, tokens, K), rand(R, J, 7, K), rand(R, J, 7, V)
    mask = attention.earlier(start, tokens, k)
    found = attention.biased(q, k, v, start, SCALE) if biases else attention.attend(q, k, v, mask, False, SCALE)
    for r in range(R):
        for h in range(H):
            for t in range(tokens):
                seen = int(start[r]) + t + 1
                far = seen - 1 - torch.arange(seen)
                bias = -alibi.slopes(H)[h] * far if biases else 0.0
                wanted = one(q[r, h, t], k[r, h // 2, :seen], v[r, h // 2, :seen], bias)
                torch.testing.assert_close(found[r, h, t], wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("block", [2, 3, 5])
@pytest.mark.parametrize("turned", [False, True], ids=["one_query", "query_of_sinks"])
def test_blocks_of_a_window_with_sinks(block: int, turned: bool) -> None:
    """Five tokens, each over itself and the two before it, and two sinks that may be asked with another query."""
    torch.manual_seed(1)
    tokens, ring, sinks = 5, 2, 2
    q, q_far, keys, values = rand(R, tokens, H, K), rand(R, tokens, H, K), rand(R, 7, J, K), rand(R, 7, J, V)
    n = -(-tokens // block)
    sink_keys, sink_values = rand(R, J, sinks, K), rand(R, J, sinks, V)
    i, place = torch.arange(block)[:, None], torch.arange(ring + block)
    inside = (place >= i) & (place <= i + ring)
    bias = torch.zeros(block, sinks + ring + block, dtype=torch.float64)
    bias[:, sinks:] = torch.where(inside, 0.0, -torch.inf)
    far = [
        (x.unsqueeze(1).expand(-1, n, -1, -1, -1), y.unsqueeze(1).expand(-1, n, -1, -1, -1))
        for x, y in ((sink_keys, sink_values),)
    ]
    given = window.Far(far, q_far if turned else None, None)
    found = window.blocked(q, keys, values, [(0, n, bias[None, None, None])], given, block, SCALE)
    for r in range(R):
        for h in range(H):
            for t in range(tokens):
                near = SCALE * keys[r, t : t + 3, h // 2] @ q[r, t, h]
                other = SCALE * sink_keys[r, h // 2] @ (q_far if turned else q)[r, t, h]
                weights = torch.softmax(torch.cat([other, near]), 0)
                wanted = weights @ torch.cat([sink_values[r, h // 2], values[r, t : t + 3, h // 2]])
                torch.testing.assert_close(found[r, t, h], wanted, rtol=1e-11, atol=1e-12)
