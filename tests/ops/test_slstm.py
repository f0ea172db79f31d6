"""The equation of ops/slstm.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from siltstone.ops import slstm

from .rule import HEADS, VALUE, Rule, as_vector, laws

AROUND = torch.randn(HEADS, VALUE, 4 * VALUE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def step(state: Any, token: Tensor) -> Any:
    """Heads first, and back; m carries no gradient into the last one."""
    fed = token.unflatten(-1, (4, HEADS, VALUE)).permute(2, 0, 1, 3).flatten(2)
    return tuple(x.transpose(0, 1) for x in slstm.step(tuple(x.transpose(0, 1) for x in state), fed, AROUND))


RULE = as_vector(
    Rule(
        step,
        lambda state, token, size, **more: slstm.chunk(AROUND, state, token, **more),
        lambda rand: {"token": rand(4 * VALUE).flatten(-2)},
        state=lambda rand: (rand(VALUE), rand(VALUE), 1 + rand(VALUE).abs(), rand(VALUE)),
        skips=True,
    )
)


TestLaws = laws(RULE)
