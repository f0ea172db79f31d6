"""The equation of ops/deep.py."""

from __future__ import annotations

import torch

from siltstone.ops import deep, mlp

from .rule import KEY, Case, Rand, Rule, laws, unit

HIDDEN = 5


def state(rand: Rand) -> tuple:
    return rand(KEY, HIDDEN), rand(HIDDEN, KEY), rand(KEY, HIDDEN), rand(HIDDEN, KEY)


def rule(most: torch.Tensor | None) -> Rule:
    return Rule(
        lambda *given, **more: deep.step(*given, **more, most=most),
        lambda *given, **more: deep.chunk(*given, **more, most=most),
        lambda rand: {"key": unit(rand(KEY)), "value": rand(KEY), "eta": rand().sigmoid() / 2},
        state,
        factors=lambda w_in, w_out, *_: (w_in, w_out),
        activation=mlp.activation,
        aligned=True,
    )


MOST = torch.tensor([2.0, 3.0], dtype=torch.float64).view(2, 1, 1, 1, 1)
TestLaws = laws(unlimited=rule(None), limited=rule(MOST))


def test_a_step_is_a_gradient_step() -> None:
    """On -<M(k), v>, taken at the base."""
    drawn = Rule.drawn(rule(None), Case())
    now, base = ([x.detach().requires_grad_() for x in two] for two in (drawn[0][:2], drawn[0][2:]))
    key, value, eta = (x[:, 0, 0].detach() for x in drawn[1].values())
    answer = key.unsqueeze(-2)
    for factor, matrix in enumerate(base):
        answer = mlp.activation(factor, answer @ matrix, key.unsqueeze(-2))
    grads = torch.autograd.grad(-(answer.squeeze(-2) * value).sum(), base)
    found = deep.step((*now, *base), key, value, eta, most=None, begins=torch.zeros(len(key), dtype=torch.bool))
    for w, grad, after in zip(now, grads, found[:2], strict=True):
        torch.testing.assert_close(after, w - eta[..., None, None] * grad, rtol=1e-12, atol=1e-12)
