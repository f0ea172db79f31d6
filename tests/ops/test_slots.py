"""The equation of ops/slots.py."""

from __future__ import annotations

import torch

from siltstone.ops import slots

from .rule import HEADS, KEY, VALUE, Rule, laws, unit

NUMBER = 3


def rule(gates: int) -> Rule:
    draw = torch.Generator().manual_seed(3)
    address = ((HEADS, VALUE, KEY), (HEADS, NUMBER, KEY), (HEADS,))
    gate = ((HEADS, VALUE, gates * VALUE), (HEADS * NUMBER * gates * VALUE,))
    weights = slots.Weights(*(torch.randn(x, generator=draw, dtype=torch.float64) for x in (*address, *address, *gate)))
    return Rule(
        lambda state, **given: slots.step(slots.Leaves(*state), weights=weights, **given),
        lambda state, **given: slots.chunk(slots.Leaves(*state), weights=weights, **given),
        lambda rand: {"key": unit(rand(KEY)), "value": rand(VALUE)},
        state=lambda rand: (*(rand(NUMBER, VALUE) for _ in range(3)), rand(NUMBER).abs()),
        factors=lambda now, *_: (slots.addresses(now, weights).transpose(-1, -2), now),
        activation=lambda factor, z, query: slots.activation(factor, z),
        aligned=True,
        reads_empty=False,
    )


TestLaws = laws(lstm=rule(3), gru=rule(2))
