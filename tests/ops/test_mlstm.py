"""The equation of ops/mlstm.py."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid, pad

from siltstone.ops import mlstm

from .rule import KEY, VALUE, Rand, Rule, laws


def inputs(rand: Rand) -> dict:
    value = pad(rand(VALUE), (0, 1), value=1.0)
    return {"key": rand(KEY), "value": value, "log_forget": logsigmoid(rand() + 2), "log_input": 3 * rand()}


RULE = Rule(
    lambda state, **given: mlstm.step((state[0], state[1].detach()), **given),  # m carries no gradient
    mlstm.chunk,
    inputs,
    state=lambda rand: (rand(KEY, VALUE + 1), rand().abs()),
    factors=lambda matrix, m: (mlstm.factor(matrix, m.detach()),),
    activation=lambda factor, z, query: mlstm.divided(z),
    query=lambda x: pad(x, (0, 1), value=1.0),
)


TestLaws = laws(RULE)


def test_the_stabiliser_cancels_out() -> None:
    """C <- f C + i k^T v and n <- f n + i k without it, eqs. 19 to 21 of arXiv 2405.04517."""
    keys, queries = torch.randn(2, 9, KEY, dtype=torch.float64)
    values = pad(torch.randn(9, VALUE, dtype=torch.float64), (0, 1), value=1.0)
    forget, enter = logsigmoid(torch.randn(9, dtype=torch.float64)), 2 * torch.randn(9, dtype=torch.float64)
    c = torch.zeros(KEY, VALUE + 1, dtype=torch.float64)
    state = c, c.new_zeros(())
    for t in range(9):
        c = forget[t].exp() * c + enter[t].exp() * torch.outer(keys[t], values[t])
        state = mlstm.step(state, keys[t], values[t], forget[t], enter[t])
        answer = queries[t] @ c
        found = mlstm.divided(pad(queries[t], (0, 1), value=1.0) @ mlstm.factor(*state))
        torch.testing.assert_close(found, answer[:-1] / answer[-1].abs().clamp(min=1.0), rtol=1e-12, atol=1e-12)
