"""The equation of ops/delta.py."""

from __future__ import annotations

from siltstone.ops import delta

from .rule import KEY, VALUE, Rule, laws, unit

RULE = Rule(delta.step, delta.chunk, lambda rand: {"key": unit(rand(KEY)), "value": rand(VALUE), "beta": 2 * rand().sigmoid()})


TestLaws = laws(RULE)
