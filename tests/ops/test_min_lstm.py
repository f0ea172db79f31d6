"""The equation of ops/min_lstm.py."""

from __future__ import annotations

from siltstone.ops import min_lstm

from .rule import VALUE, Rand, Rule, as_vector, laws


def inputs(rand: Rand) -> dict:
    keep, new = min_lstm.gates(rand(VALUE), rand(VALUE), rand(VALUE))
    return {"keep": keep, "new": new}


RULE = as_vector(Rule(min_lstm.step, min_lstm.chunk, inputs, state=lambda rand: rand(VALUE)))


TestLaws = laws(RULE)
