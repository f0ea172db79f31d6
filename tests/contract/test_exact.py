"""cache="exact": its laws, and the ways of writing it down that short streams do not reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from siltstone.schedule import window

from . import test_layer
from .common import STREAM, agrees, close, differ, feed, gradients, make_layer, named, oracles, randn
from .grid import CASES, Case
from .models import IDS, make_model, model_config

BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=0, position="rope", write_delay="window", compress="identity",
    rate=1, memory="gated_delta", memory_options={}, cache="exact", segment=4, start="restart", segments="constant", router_dim=4,
)  # fmt: skip


def config(writes: int, **keys: Any) -> dict[str, Any]:
    return BASE | dict(cache_options=dict(writes=writes)) | keys


def window_alone(cfg: dict[str, Any]) -> Any:
    """A layer whose memory is silent."""
    layer = make_layer(cfg)
    with torch.no_grad():
        layer.mix.norm.zero_()
    return layer


@pytest.mark.parametrize("case", [c for c in CASES if c.cfg["cache"] == "exact"])
def test_a_call_of_many_blocks(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries are answered in blocks, and from each block to the next the store is carried on."""
    for block in (1, 2, 5):
        monkeypatch.setattr(window, "BLOCK", block)
        test_layer.test_forward_and_gradients(case)
    test_layer.test_every_split(case)
    test_layer.test_rows_padding_resets_and_gradients_through_calls(case)


DEEP = dict(memory="deep", memory_options=dict(inner_batch=4, expansion=2, inner_lr=0.5))


MEAN = dict(rate=3, compress="mean", segment=6, sinks=2)
ALIBI = dict(position="alibi", kv_heads=1, qk_norm=True, compress_every=2, write_delay=0, short_conv=2)


@pytest.mark.parametrize("keys", [{}, MEAN, ALIBI, DEEP | dict(write_delay=0)], ids=["plain", "mean", "alibi", "deep"])
def test_hundreds_of_tokens(keys: dict[str, Any]) -> None:
    """More than two blocks of queries, in one call and in four."""
    cfg = config(7, **keys)
    layer, x, probe = make_layer(cfg), randn(280, 8, seed=6), randn(280, 8, seed=7)
    x[90:100] *= 3.0
    want = oracles(cfg, layer, x, probe)
    for calls in ([], [1, 130, 259]):
        agrees(layer, x, probe, want, calls=calls)


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("delay", ["window", 0])
def test_a_store_of_everything_is_full_attention(delay: str | int, rate: int, sinks: int) -> None:
    """Sinks, window, pending and stored tokens are all tokens, each of them once."""
    keys = dict(sinks=sinks, rate=rate, compress="mean" if rate > 1 else "identity", segment=6, write_delay=delay)
    layer = window_alone(config(28, position="none", **keys))
    few = window_alone(config(2, position="none", **keys))
    with torch.no_grad():
        q, k, v = layer.mix.window.qkv(STREAM).view(28, 3, 2, 4).permute(1, 2, 0, 3)
        want = layer.mix.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(28, 8))
        for cuts in ([], [9, 10], range(1, 28)):
            close(feed(layer, STREAM[None], None, cuts)[0][0], want)
        assert differ(few(STREAM[None])[0][0], want)


def kept(state: Any) -> list[int]:
    """The numbers of the writes that the only row keeps."""
    return state.layers[0].kept.number[0].tolist()


def test_a_surprise_stays_and_is_attended_to() -> None:
    """Thousands of tokens later, by a token that sees it in no window; in a state that does not grow."""
    layer = window_alone(config(4, position="rope"))
    x = randn(4000, 8, seed=8)
    x[100] *= 40.0
    x.requires_grad_()
    _, early = feed(layer, x[None, :1000], None, [50, 300])
    y, late = feed(layer, x[None, 1000:], early, [1000, 2500])
    assert 100 in kept(early) and 100 in kept(late)
    assert early.nbytes == late.nbytes and len(kept(late)) == 4
    (grad,) = torch.autograd.grad(y[0, -1].sum(), x)
    seen = grad.abs().amax(1).nonzero().flatten().tolist()
    assert seen == [*kept(late), 3997, 3998, 3999]
    (cut,) = torch.autograd.grad(layer(x[None, -1:], late.detach())[0].sum(), x)
    assert cut.abs().amax(1).nonzero().flatten().tolist() == [3999]


@pytest.mark.parametrize("cuts", [[], [7, 8, 9, 20], range(1, 28)])
def test_of_equal_surprises_the_most_recent_are_kept(cuts: list[int]) -> None:
    layer = make_layer(config(3, memory="linear"))
    with torch.no_grad():
        layer.mix.memory.write.weight.zero_()  # every key and value is 0
        _, state = feed(layer, STREAM[None], None, cuts)
    assert state.layers[0].kept.surprise.tolist() == [[0.0] * 3]
    assert kept(state) == [22, 23, 24]  # 25 tokens have left the window


def test_the_choice_has_no_gradient() -> None:
    layer = window_alone(config(3))
    y, _ = layer(STREAM[None])
    params = named(layer)
    _, grads = gradients(y.square().sum() + 0 * layer.mix.out.weight.sum(), params["out.weight"], params)
    assert not any(grad.any() for name, grad in grads.items() if name.startswith("memory."))
    assert grads["window.qkv.weight"].any()


def tampered(t: Tensor, by: float, at: int = 0) -> Tensor:
    out = t.clone()
    out[0, at] = by
    return out


def test_a_store_that_its_position_does_not_imply_is_refused() -> None:
    model = make_model(model_config(config(3)))
    _, state = model(IDS[:1, :20])
    tensors, meta = state.tensors(), state.meta()
    model.load_state(tensors, meta)
    last = kept(state)[1]
    for name, by in (("number", 17), ("number", last), ("number", -1), ("surprise", -torch.inf)):
        full = f"layers.0.kept.{name}"
        with pytest.raises(ValueError, match="does not hold what position"):
            model.load_state(tensors | {full: tampered(tensors[full], by)}, meta)
    number = "layers.0.kept.number"  # 17 writes are made, and the last place may hold any up to 16
    model.load_state(tensors | {number: tampered(tensors[number], 16, -1)}, meta)
    for by in (17, 18):
        with pytest.raises(ValueError, match="does not hold what position"):
            model.load_state(tensors | {number: tampered(tensors[number], by, -1)}, meta)
    with pytest.raises(ValueError, match="does not hold what position"):
        model.load_state(model.init_state(1).tensors(), meta)
