"""The equation of ops/gated.py."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from siltstone.ops import gated

from .rule import KEY, VALUE, Rand, Rule, laws, unit


def rule(*channels: int) -> Rule:
    def inputs(rand: Rand) -> dict:
        decay = logsigmoid(rand(*channels)).clamp(min=-5.0)
        return {"key": unit(rand(KEY)), "value": rand(VALUE), "log_decay": decay, "beta": rand().sigmoid()}

    return Rule(gated.step, gated.chunk, inputs)


TestLaws = laws(head=rule(), channel=rule(KEY))
