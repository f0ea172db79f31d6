"""The equation of ops/min_gru.py."""

from __future__ import annotations

from siltstone.ops import min_gru

from .rule import VALUE, Rand, Rule, as_vector, laws


def inputs(rand: Rand) -> dict:
    keep, new = min_gru.gates(rand(VALUE), rand(VALUE))
    return {"keep": keep, "new": new}


RULE = as_vector(Rule(min_gru.step, min_gru.chunk, inputs, state=lambda rand: rand(VALUE)))


TestLaws = laws(RULE)
