"""The equation of ops/min_gru.py."""

from __future__ import annotations

from siltstone.ops import min_gru

from .rule import CASES, CUTS, VALUE, Case, Rand, Rule, as_vector


def inputs(rand: Rand) -> dict:
    keep, new = min_gru.gates(rand(VALUE), rand(VALUE))
    return {"keep": keep, "new": new}


RULE = as_vector(Rule(min_gru.step, min_gru.chunk, inputs, state=lambda rand: rand(VALUE)))


@CASES
def test_chunk_is_step_after_step(case: Case) -> None:
    RULE.check(case)


@CUTS
def test_a_split_changes_nothing(cut: int) -> None:
    RULE.check_cut(cut)
