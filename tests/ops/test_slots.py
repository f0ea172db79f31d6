"""The equation of ops/slots.py."""

from __future__ import annotations

import pytest
import torch

from siltstone.ops import slots

from .rule import CASES, CUTS, HEADS, KEY, VALUE, Case, Rule, unit

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


RULES = pytest.mark.parametrize("rule", [pytest.param(rule(3), id="lstm"), pytest.param(rule(2), id="gru")])


@RULES
@CASES
def test_chunk_is_step_after_step(rule: Rule, case: Case) -> None:
    rule.check(case)


@RULES
@CUTS
def test_a_split_changes_nothing(rule: Rule, cut: int) -> None:
    rule.check_cut(cut)
