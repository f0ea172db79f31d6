"""The equation of ops/gated.py."""

from __future__ import annotations

import pytest
from torch.nn.functional import logsigmoid

from siltstone.ops import gated

from .rule import CASES, CUTS, KEY, VALUE, Case, Rand, Rule, unit


def rule(*channels: int) -> Rule:
    def inputs(rand: Rand) -> dict:
        decay = logsigmoid(rand(*channels)).clamp(min=-5.0)
        return {"key": unit(rand(KEY)), "value": rand(VALUE), "log_decay": decay, "beta": rand().sigmoid()}

    return Rule(gated.step, gated.chunk, inputs)


RULES = pytest.mark.parametrize("rule", [pytest.param(rule(), id="head"), pytest.param(rule(KEY), id="channel")])


@RULES
@CASES
def test_chunk_is_step_after_step(rule: Rule, case: Case) -> None:
    rule.check(case)


@RULES
@CUTS
def test_a_split_changes_nothing(rule: Rule, cut: int) -> None:
    rule.check_cut(cut)
