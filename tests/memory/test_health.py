"""Memories as they begin: states stay finite and bounded, and gradients reach far back."""

from __future__ import annotations

import pytest
import torch

import siltstone as st
from siltstone.config import registry

ERASING = ("delta", "gated_delta")  # random unit keys erase what was written long ago, as they should


def reach(memory: str, back: list[int], **keys: object) -> list[float]:
    """|d loss_t / d x_{t-n}| for each n, about the mean over 16 tokens and two layers."""
    found, last = torch.zeros(len(back)), back[-1] + 100
    for seed in range(2):
        torch.manual_seed(seed)
        layer = st.MemoryCaching(32, heads=4, window=4, memory=memory, **keys)
        x, probe = torch.randn(1, last + 1, 32, requires_grad=True), torch.randn(32)
        (grad,) = torch.autograd.grad((layer(x)[0][0, -1] * probe).sum(), x)
        norm = grad[0].norm(dim=-1)
        found += torch.stack([norm[last - n - 8 : last - n + 8].mean() for n in back]) / 2
    return found.tolist()


@pytest.mark.parametrize("memory", registry.members("memory"))
def test_gradients_reach_over_thousands_of_tokens_through_the_bank(memory: str) -> None:
    near, far, farther = reach(memory, [16, 1024, 4096], cache="gated", segment=128)
    assert 3e-2 < far / near < 10 and 3e-2 < farther / near < 10


@pytest.mark.parametrize("memory", registry.members("memory"))
def test_gradients_reach_far_through_the_recurrence_alone(memory: str) -> None:
    near, far = reach(memory, [16, 128 if memory in ERASING else 1024], cache="none")
    assert 1e-3 < far / near < 10


@pytest.mark.parametrize("what", ["random", "constant"])
@pytest.mark.parametrize("memory", ["deep", "titans"])
def test_memories_that_learn_stay_bounded(memory: str, what: str) -> None:
    """Left without a limit, the matrices of an MLP feed each other; 3,000 writes into one segment."""
    torch.manual_seed(0)
    layer = st.MemoryCaching(64, heads=2, window=4, memory=memory, cache="none")
    x = torch.randn(1, 3000, 64) if what == "random" else torch.randn(1, 1, 64).expand(1, 3000, 64)
    with torch.no_grad():
        y, early = layer(x[:, :1000])
        z, late = layer(x[:, 1000:], early)
    assert y.isfinite().all() and z.isfinite().all()
    for name in ("w_in", "w_out"):
        one, other = (getattr(state.layers[0].online, name).norm(dim=(-2, -1)).max() for state in (early, late))
        assert other < 1.5 * one < 1e3


@pytest.mark.parametrize("dtype,group", [(torch.float32, 1), (torch.float32, 32), (torch.bfloat16, 32), (torch.float16, 1)])
def test_channels_that_forget_all_at_once_stay_numbers(dtype: torch.dtype, group: int) -> None:
    """The fastest decay, e^-5 a write, over the longest chunk: quotients of its powers are within the type's range."""
    torch.manual_seed(0)
    layer = st.MemoryCaching(
        32, heads=2, window=4, memory="gated", memory_options={"decay": "channel"}, cache="none", compress_every=group
    )
    x, exact = torch.randn(1, 256, 32), None
    with torch.no_grad():
        layer.mix.memory.fade.bias.fill_(-50.0)  # type: ignore[union-attr]
        layer.mix.norm.fill_(0.1)  # one write outweighs all: where a query is at right angles to its key, rounding is read
        for kind in (torch.float64, dtype):
            y, state = layer.to(kind)(x.to(kind))
            exact = y if exact is None else exact
            assert y.isfinite().all() and all(t.isfinite().all() for t in state.tensors().values())
    apart, most = (y.double() - exact).abs(), float(exact.abs().max())
    bound = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    assert float(apart.max()) < bound * most and float(apart.mean()) < 4 * torch.finfo(dtype).eps * most
