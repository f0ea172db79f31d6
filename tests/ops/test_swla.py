"""The equation of ops/swla.py."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from siltstone.ops import swla

from .rule import KEY, VALUE, Rand, Rule, laws, unit


def inputs(rand: Rand) -> dict:
    gates = {"log_decay": logsigmoid(rand() + 2), "again": rand().sigmoid(), "beta": rand().sigmoid()}
    return {"key": unit(rand(KEY)), "value": rand(VALUE), **gates}


RULE = Rule(
    swla.step,
    swla.chunk,
    inputs,
    state=lambda rand: (rand(KEY, VALUE), rand(KEY), rand(VALUE)),
    factors=lambda matrix, key, value: (matrix,),
)


TestLaws = laws(RULE)
