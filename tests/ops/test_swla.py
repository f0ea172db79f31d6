"""The equation of ops/swla.py."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from siltstone.ops import swla

from .rule import CASES, CUTS, KEY, VALUE, Case, Rand, Rule, unit


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


@CASES
def test_chunk_is_step_after_step(case: Case) -> None:
    RULE.check(case)


@CUTS
def test_a_split_changes_nothing(cut: int) -> None:
    RULE.check_cut(cut)
