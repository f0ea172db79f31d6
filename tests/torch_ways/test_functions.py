"""torch.func's transforms, and second derivatives, of every model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.utils import stateless

from siltstone.errors import InputError
from siltstone.ops.attention import Twice, plainly
from siltstone.ops.bank_read import GatedProduct, Permute, Spread
from siltstone.ops.taking_part import TakingPart

from .models import CACHES, COMPRESSORS, EVERY, IDS, OTHERS, RULES, model, some_ids

pytestmark = [  # of what torch imports, and of operations that vmap does one by one
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]
FUSED = ("gru", "lstm")
SOME = RULES[::3] + CACHES + COMPRESSORS[-2:] + OTHERS


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def loss_of(lm: Any, ids: Tensor) -> Any:
    return lambda params, one=ids: functional_call(lm, params, (one,))[0].square().mean()


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_gradients_of_torch_func_are_autograds(keys: dict[str, Any]) -> None:
    lm, ids = model(keys).double(), some_ids(1)
    params = dict(lm.named_parameters())
    loss = loss_of(lm, ids)
    want = torch.autograd.grad(loss({}), list(params.values()))
    value, pull = vjp(loss, params)
    for found in (grad(loss)(params), pull(torch.ones_like(value))[0]):
        for x, y in zip(found.values(), want, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("keys", SOME)
def test_a_forward_derivative_is_the_gradient_along_it(keys: dict[str, Any]) -> None:
    lm, ids = model(keys).double(), some_ids(1)
    params = dict(lm.named_parameters())
    along = {name: torch.randn_like(p) for name, p in params.items()}
    _, moved = jvp(loss_of(lm, ids), (params,), (along,))
    want = sum((x * along[name]).sum() for name, x in grad(loss_of(lm, ids))(params).items())
    torch.testing.assert_close(moved, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("keys", SOME)
def test_vmap_over_rows_and_over_weights(keys: dict[str, Any]) -> None:
    """Gradients of each row by itself, and an ensemble of models."""
    lm, ids = model(keys).double(), some_ids(2).unsqueeze(1)
    params = dict(lm.named_parameters())
    loss = loss_of(lm, ids[0])
    if keys.get("memory") in FUSED:
        with pytest.raises(InputError, match="vmap"):
            vmap(grad(loss), (None, 0))(params, ids)
        return
    found = vmap(grad(loss), (None, 0))(params, ids)
    for row in range(2):
        for name, x in grad(loss)(params, ids[row]).items():
            torch.testing.assert_close(found[name][row], x, rtol=1e-7, atol=1e-9)
    both = {name: torch.stack([p, 1.1 * p]) for name, p in params.items()}
    for on in (True, False):
        with torch.set_grad_enabled(on):
            y = vmap(loss)(both)
            torch.testing.assert_close(y[1], loss({name: 1.1 * p for name, p in params.items()}), rtol=1e-8, atol=1e-10)


def test_vmap_is_refused_by_fused_recurrences_and_for_flags() -> None:
    for name in FUSED:
        lm = model({"memory": name})
        with pytest.raises(InputError, match="vmap"):
            vmap(lambda one, lm=lm: lm(one)[0])(some_ids(2).unsqueeze(1))
    lm, mask = model({}), torch.ones(2, 1, 13, dtype=torch.bool)
    with pytest.raises(InputError, match="mask .* vmap"):
        vmap(lambda one, flag: lm(one, mask=flag)[0])(some_ids(2).unsqueeze(1), mask)
    ids, weights = some_ids(1), dict(lm.named_parameters())
    grad(lambda p, flag: functional_call(lm, p, (ids,), {"mask": flag})[0].sum())(weights, mask[0])  # wrapped, and the same


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_second_derivatives(keys: dict[str, Any], kind: torch.dtype) -> None:
    """d |grad|^2 along some direction, against the difference of two gradients; in float32 fused attention is at work."""
    lm, ids = model(keys).double(), some_ids(1)
    params = list(lm.parameters())

    def squares() -> Tensor:
        grads = torch.autograd.grad(lm(ids)[0].square().mean(), params, create_graph=True)
        return torch.stack([x.square().sum() for x in grads]).sum()

    way, step = [torch.randn_like(p) for p in params], 1e-7
    ends = []
    for move in (step, -step):
        with torch.no_grad():
            for p, w in zip(params, way, strict=True):
                p.add_(move * w)
        ends.append(float(squares().detach()))
        with torch.no_grad():
            for p, w in zip(params, way, strict=True):
                p.sub_(move * w)
    want = (ends[0] - ends[1]) / (2 * step)
    lm.to(kind)
    found = torch.autograd.grad(squares(), params)
    got = sum(float((x.double() * w.double()).sum()) for x, w in zip(found, way, strict=True))
    assert abs(got - want) <= (1e-4 if kind == torch.float64 else 1e-2) * max(1.0, abs(want))


def test_functions_of_reads_have_right_derivatives_of_both_orders() -> None:
    z, matrices, gates = rand(2, 3, 2, 2, 3), rand(2, 2, 3, 3, 2), rand(2, 3, 2, 2, 3)
    order = torch.tensor([3, 0, 2, 1, 5, 4])
    back = order.argsort()
    cases: list[tuple[Any, tuple[Tensor, ...]]] = [
        (lambda *x: GatedProduct.apply(*x, [0, 2, 3]), (z, matrices, gates)),
        (lambda *x: GatedProduct.apply(*x, [3, 0, 1]), (z, matrices, gates)),
        (lambda x: Spread.apply(x, order, back, 2).square(), (rand(3, 2),)),
        (lambda x: Permute.apply(x, order, back).square(), (rand(6, 2),)),
        (lambda *x: TakingPart.apply(*x).square(), (rand(3), rand(2))),
    ]
    for f, inputs in cases:
        assert gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=False)
        assert gradgradcheck(f, inputs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [4, 2])
def test_attention_has_derivatives_of_both_orders(heads: int, causal: bool) -> None:
    q, k, v = rand(1, 4, 3, 2), rand(1, heads, 3, 2), rand(1, heads, 3, 2)
    mask = None if causal else torch.randn(1, 1, 3, 3, dtype=torch.float64)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=0.7, enable_gqa=heads < 4
        )
        return Twice.apply(out, q, k, v, mask, causal, 0.7)

    torch.testing.assert_close(attend(q, k, v), plainly(q, k, v, mask, causal, 0.7))
    assert gradcheck(attend, (q, k, v)) and gradgradcheck(attend, (q, k, v))
    assert gradgradcheck(lambda q, v: attend(q, k.detach(), v), (q, v))


def test_stateless_calls_leave_the_model_as_it_was() -> None:
    lm, ids = model({}), some_ids()
    doubled = {name: 2 * p for name, p in lm.named_parameters()}
    before, want = lm(ids)[0], functional_call(lm, doubled, (ids,))[0]
    with stateless._reparametrize_module(lm, doubled):
        assert torch.equal(lm(ids)[0], want)
    assert torch.equal(lm(ids)[0], before) and not torch.equal(want, before)


@pytest.mark.parametrize("keys", [{}, {"pattern": "mwa", "depth": 3}, {"memory": "deep", "tie": False}])
def test_an_ensemble_over_a_skeleton_without_numbers(keys: dict[str, Any]) -> None:
    members, ids = [model(keys) for _ in range(2)], some_ids()
    params, buffers = torch.func.stack_module_state(members)
    skeleton = model(keys).to("meta")
    with torch.no_grad():
        want = members[0](ids)[0]
        for given in ((params, buffers), (params,)):
            y = vmap(lambda *x: functional_call(skeleton, x, (ids,))[0])(*given)
            torch.testing.assert_close(y[1], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_forward_derivatives_without_torch_func(keys: dict[str, Any]) -> None:
    """Dual numbers go through every model, in a whole call and in single tokens after it."""
    lm, ids = model(keys).double(), some_ids(1)
    params = dict(lm.named_parameters())
    along = {name: torch.randn_like(p) for name, p in params.items()}
    _, want = jvp(lambda params: functional_call(lm, params, (ids,))[0], (params,), (along,))
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(p, along[name]) for name, p in params.items()}
        found, state = [], None
        for part in (ids[:, :-2], ids[:, -2:-1], ids[:, -1:]):
            y, state = functional_call(lm, dual, (part, state))
            found.append(y)
        moved = torch.cat([forward_ad.unpack_dual(y).tangent for y in found], 1)
    torch.testing.assert_close(moved, want, rtol=1e-7, atol=1e-9)
