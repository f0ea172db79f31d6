"""The equation of ops/deep.py."""

from __future__ import annotations

import torch

from siltstone.ops import deep, mlp

from .rule import KEY, LIMITS, Case, Rand, Rule, inner_batches, laws, unit

HIDDEN = 5


def state(rand: Rand) -> tuple:
    return rand(KEY, HIDDEN), rand(HIDDEN, KEY), rand(KEY, HIDDEN), rand(HIDDEN, KEY)


def inputs(rand: Rand) -> dict:
    return {"key": unit(rand(KEY)), "value": rand(KEY), "eta": rand().sigmoid() / 2}


RULE = inner_batches(deep, inputs, state, None)
TestLaws = laws(unlimited=RULE, limited=inner_batches(deep, inputs, state, LIMITS))


def test_a_step_is_a_gradient_step() -> None:
    """On -<M(k), v>, taken at the base."""
    drawn = Rule.drawn(RULE, Case())
    now, base = ([x.detach().requires_grad_() for x in two] for two in (drawn[0][:2], drawn[0][2:]))
    key, value, eta = (x[:, 0, 0].detach() for x in drawn[1].values())
    answer = key.unsqueeze(-2)
    for factor, matrix in enumerate(base):
        answer = mlp.activation(factor, answer @ matrix, key.unsqueeze(-2))
    grads = torch.autograd.grad(-(answer.squeeze(-2) * value).sum(), base)
    found = deep.step((*now, *base), key, value, eta, most=None, begins=torch.zeros(len(key), dtype=torch.bool))
    for w, grad, after in zip(now, grads, found[:2], strict=True):
        torch.testing.assert_close(after, w - eta[..., None, None] * grad, rtol=1e-12, atol=1e-12)
