"""Normalisations and the gated product: gradients of gradients, forward mode, torch.func, and half precision."""

from __future__ import annotations

import pytest
import torch

import siltstone as st
from siltstone.ops.bank_read import by_segment_chunk
from siltstone.ops.norm import l2, rms
from tests.contract.common import randn

# torch's own forward mode still scripts its decompositions
scripts = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@scripts
@pytest.mark.parametrize("norm", [l2, lambda x: rms(x, torch.arange(1.0, 6.0).double(), 1e-3)])
def test_norms_can_be_differentiated_again_and_in_both_modes(norm: object) -> None:
    x = randn(3, 5, seed=0).requires_grad_()
    assert torch.autograd.gradcheck(norm, x, check_forward_ad=True)  # type: ignore[arg-type]
    assert torch.autograd.gradgradcheck(norm, x)  # type: ignore[arg-type]


@scripts
def test_norms_take_function_transforms() -> None:
    x = randn(3, 5, seed=0)
    want = torch.stack([torch.autograd.functional.jacobian(l2, row) for row in x])  # type: ignore[arg-type]
    assert torch.allclose(torch.func.vmap(torch.func.jacrev(l2))(x), want)  # type: ignore[arg-type]
    assert torch.allclose(torch.func.vmap(torch.func.jacfwd(l2))(x), want)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision(dtype: torch.dtype, size: float) -> None:
    x = (randn(4, 16, seed=1) * size).to(dtype)
    grad = randn(4, 16, seed=2).to(dtype)
    found = torch.autograd.grad(l2(x.requires_grad_()), x, grad)[0].double()
    wide = x.detach().double().requires_grad_()
    want = torch.autograd.grad(l2(wide), wide, grad.double())[0]
    assert (found - want).abs().max() <= 0.02 * want.abs().max()


def test_the_gated_product_can_be_differentiated_again() -> None:
    z, matrices = randn(2, 3, 2, 4, 3, seed=3).requires_grad_(), randn(2, 2, 3, 3, 2, seed=4).requires_grad_()
    gates = randn(2, 3, 2, 4, 3, seed=5).requires_grad_()

    def product(*x: torch.Tensor) -> torch.Tensor:
        return by_segment_chunk(*x, [0, 2, 3])

    assert torch.autograd.gradcheck(product, (z, matrices, gates))
    assert torch.autograd.gradgradcheck(product, (z, matrices, gates))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cache", ["none", "gated", "sparse"])
def test_a_layer_in_half_precision_stays_near(cache: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = st.MemoryCaching(16, heads=2, window=4, segment=4, cache=cache)
    x = randn(2, 20, 16, seed=6).float()
    want, half = layer(x)[0], layer.to(dtype)
    given = x.to(dtype).requires_grad_()
    got = half(given)[0]
    got.float().square().sum().backward()
    assert got.dtype == dtype and given.grad is not None and torch.isfinite(given.grad).all()
    if cache != "sparse":  # there a near-tie may choose another checkpoint
        got, want = (
            got[:, 5:],
            want[:, 5:],
        )  # token 4 reads a single write, which a query at right angles to its key makes rounding
        assert (got.float() - want).abs().max() < 16 * torch.finfo(dtype).eps * want.abs().max()
