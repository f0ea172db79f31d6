"""The equation of ops/titans.py."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from siltstone.ops import mlp, titans

from .rule import KEY, LIMITS, Case, Rand, Rule, inner_batches, laws, unit

HIDDEN = 5


def state(rand: Rand) -> tuple:
    return tuple(rand(*shape) / 3 for _ in range(3) for shape in ((KEY, HIDDEN), (HIDDEN, KEY)))


def inputs(rand: Rand) -> dict:
    gates = {"log_keep": logsigmoid(rand() + 3), "log_momentum": logsigmoid(rand()), "theta": rand().sigmoid() / 5}
    return {"key": unit(rand(KEY)), "value": rand(KEY), **gates}


RULE = inner_batches(titans, inputs, state, None)
TestLaws = laws(unlimited=RULE, limited=inner_batches(titans, inputs, state, LIMITS))


def test_a_step_is_a_gradient_step() -> None:
    """On |M(k) - v|^2, taken at the base, with momentum and forgetting."""
    drawn = Rule.drawn(RULE, Case())
    now, base, moment = ([x.detach().requires_grad_() for x in drawn[0][i : i + 2]] for i in (0, 2, 4))
    key, value, *gates = (x[:, 0, 0].detach() for x in drawn[1].values())
    answer = key.unsqueeze(-2)
    for factor, matrix in enumerate(base):
        answer = mlp.activation(factor, answer @ matrix, key.unsqueeze(-2))
    grads = torch.autograd.grad((answer.squeeze(-2) - value).square().sum(), base)
    found = titans.step((*now, *base, *moment), key, value, *gates, most=None, begins=torch.zeros(len(key), dtype=torch.bool))
    keep, eta, theta = (x[..., None, None] for x in (gates[0].exp(), gates[1].exp(), gates[2]))
    for w, s, grad, after, then in zip(now, moment, grads, found[:2], found[4:], strict=True):
        wanted = eta * s - theta * grad
        torch.testing.assert_close(then, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(after, keep * w + wanted, rtol=1e-12, atol=1e-12)
