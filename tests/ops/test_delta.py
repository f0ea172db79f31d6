"""The equation of ops/delta.py."""

from __future__ import annotations

from siltstone.ops import delta

from .rule import CASES, CUTS, KEY, VALUE, Case, Rule, unit

RULE = Rule(delta.step, delta.chunk, lambda rand: {"key": unit(rand(KEY)), "value": rand(VALUE), "beta": 2 * rand().sigmoid()})


@CASES
def test_chunk_is_step_after_step(case: Case) -> None:
    RULE.check(case)


@CUTS
def test_a_split_changes_nothing(cut: int) -> None:
    RULE.check_cut(cut)
