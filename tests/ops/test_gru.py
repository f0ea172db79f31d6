"""The equation of ops/gru.py."""

from __future__ import annotations

import torch
from torch import nn

from siltstone.ops import gru

from .rule import HEADS, VALUE, Rule, as_vector, laws, weights_of

NETWORK = nn.GRU(HEADS * 3, HEADS * VALUE, batch_first=True, dtype=torch.float64)
RULE = as_vector(
    Rule(
        lambda state, token: gru.step(state, token, weights_of(NETWORK)),
        lambda state, token, size, **more: gru.chunk(NETWORK, state, token, **more),
        lambda rand: {"token": rand(3).flatten(-2)},
        state=lambda rand: rand(VALUE),
        skips=True,
    )
)


TestLaws = laws(RULE)
