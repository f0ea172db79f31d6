"""The language model against the oracle's, in all its patterns, and its inputs."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.ops import attention
from siltstone.schedule import window

from ..oracle import lm
from .common import close, cutting, feed, gradients, named, weights
from .grid import inner, used
from .models import IDS, VOCAB, make_model, model_config

LAYER: dict[str, Any] = dict(d_model=8, heads=2, head_dim=4, window=4, sinks=1, memory="gated", cache="gated", segment=4)
DEEP = dict(memory="deep", memory_options=dict(inner_batch=2, expansion=2, inner_lr=0.5))
LLAMA3 = dict(type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(type="yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.3, beta_fast=3.0, beta_slow=0.5)
LED = dict(routing="shared", gate="softmax")
SHAPES: list[dict[str, Any]] = [
    dict(pattern="m", mlp="swiglu", tie=True),
    dict(pattern="w", mlp="gelu", tie=False, rate=2, compress="mean"),
    dict(pattern="a", mlp="swiglu", tie=True, position="none"),
    dict(pattern="a w m", depth=3, mlp="swiglu", tie=False, norm_eps=1e-3),
    dict(pattern="ma", depth=3, mlp="gelu", tie=True, write_delay=0, cache="sparse", top_k=1, memory="gated_delta"),
    dict(pattern="wm", depth=2, mlp="gelu", tie=True, memory="gru", cache="residual", value_dim=3, segments="logarithmic"),
    dict(pattern="mwm", depth=3, routing="shared", gate="softmax", router="subblock:2", segments="logarithmic", norm_eps=1e-5),
    dict(pattern="m", depth=2, routing="shared", memory="delta", gate_distance="alibi", gate="softmax"),
    dict(pattern="m", depth=3, router="anchor:2", memory="linear", layers={"1": LED | DEEP, "2": LED | dict(cache="sparse")}),
    dict(pattern="m", depth=3, gate="sigmoid", layers={"1": LED | DEEP, "2": LED | dict(cache="soup")}),
    dict(pattern="mm", depth=3, routing="shared", memory="linear", cache="sparse", max_checkpoints=2, evict="merge", top_k=1),
    dict(
        pattern="mwm", depth=3, routing="shared", segments="content", router="subblock:2", gate="softmax", rate=2, compress="mean"
    ),
    dict(pattern="amm", depth=3, segments="content", memory="gated_delta", max_checkpoints=2, evict="merge"),
    dict(pattern="m", depth=2, segments="content", layers={"1": dict(segments="constant", memory="delta")}),
    dict(pattern="mam", depth=3, memory="titans", cache="exact", cache_options=dict(writes=2), memory_options=inner("titans")),
    dict(pattern="am", depth=2, window=0, sinks=0, write_delay=0, memory="linear", cache="soup", start="carry"),
    dict(pattern="a", mlp="gelu", position="alibi", heads=4, kv_heads=2, value_dim=3),
    dict(pattern="a", mlp="gelu", position="alibi", qk_norm=True, short_conv=2),
    dict(pattern="wa", depth=2, sinks=2, kv_heads=1, qk_norm=True, short_conv=4),
    dict(pattern="wm", depth=2, position="alibi", sinks=3, heads=4, kv_heads=2, rate=2, compress="mean"),
    dict(pattern="m", position="alibi", window=2, rate=3, compress="conv", segment=6, qk_norm=True),
    dict(pattern="ma", depth=2, position="none", sinks=2, kv_heads=1, rate=2, compress="mean", short_conv=2),
    dict(pattern="a", heads=4, kv_heads=2, qkv_bias=True, rope_theta=500.0, rope_scaling=LLAMA3),
    dict(pattern="wa", depth=2, qk_norm="all", qk_norm_eps=1e-2, kv_heads=1, norm="after", rope_scaling=YARN, tie=False),
    dict(pattern="mwa", depth=3, out_bias=True, mlp_bias=True, qkv_bias=True, rope_scaling={"type": "linear", "factor": 3.0}),
    dict(pattern="wa", depth=2, qk_norm=True, qk_norm_eps=1e-3, rope_theta=90.0, layers={"1": dict(position="none")}, sinks=2),
    dict(pattern="m", cache="exact", cache_options=dict(writes=2), norm="after", qkv_bias=True, rope_scaling=YARN, sinks=1),
    dict(
        pattern="mw am", depth=5, position="alibi", kv_heads=1, segment=8, memory_options=dict(decay="channel"),
        layers={
            "0": dict(memory="titans", memory_options=dict(inner_batch=2, expansion=2, inner_lr=0.3), window=3, start="carry"),
            "1": dict(window=7, sinks=0, short_conv=3),
            "2": dict(position="rope", heads=4, qk_norm=True),
            "-1": dict(memory="delta", cache="sparse", top_k=1, window=2, rate=2, compress="mean", write_delay=0, kv_heads=2),
        },
    ),
]  # fmt: skip
every_shape = pytest.mark.parametrize("keys", SHAPES, ids=lambda k: k["pattern"].replace(" ", "") + "-" + str(len(k)))


CUTS = (0, 3, 9, 10, 11, 19)


def cuts(keys: dict[str, Any]) -> tuple[int, ...] | None:
    """The tokens at which a text is cut; None where segments do not end by content."""
    return CUTS if keys.get("segments") == "content" else None


def full(keys: dict[str, Any]) -> dict[str, Any]:
    """Every key, defaults too, for the oracle."""
    return st.LMConfig.from_dict(used(model_config(LAYER, **keys))).to_dict()


PROBE = torch.linspace(-1, 1, 26 * VOCAB, dtype=torch.float64).view(26, VOCAB)


@cache
def truth(keys: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The oracle's logits of 26 tokens, and the gradients of their sum under PROBE; keys as JSON."""
    cfg = full(json.loads(keys))
    w, zero = weights(make_model(cfg)), torch.zeros(1, requires_grad=True)
    want = lm.run(cfg, w, IDS[0, :26].tolist(), cuts=cuts(cfg) or ())
    return want.detach(), gradients((want * PROBE).sum() + zero.sum(), zero, w)[1]


@every_shape
def test_logits_and_gradients(keys: dict[str, Any]) -> None:
    model = cutting(make_model(full(keys)), cuts(keys)).requires_grad_(True)
    want, expected = truth(json.dumps(keys))
    with torch.no_grad():
        logits, state = model(IDS[:1, :26])
        close(logits[0], want)
        flags = None if cuts(keys) is None else torch.tensor([[t in CUTS for t in range(26)]])
        features, _ = model.features(IDS[:1, :26], cut=flags)
        close(model.head(features)[0], want)
        assert state.position.tolist() == [26]
    zero = torch.zeros(1, requires_grad=True)
    cut, _ = feed(model, IDS[:1, :26], None, [7, 8, 15])
    _, got = gradients((cut[0] * PROBE).sum() + zero.sum(), zero, named(model))
    for name, grad in got.items():
        close(grad, expected[name], f"gradient of {name}")


@every_shape
def test_any_calls_with_padding_and_resets(keys: dict[str, Any]) -> None:
    model = cutting(make_model(full(keys)), cuts(keys))
    want, _ = truth(json.dumps(keys))
    ids = torch.zeros(3, 33, dtype=torch.long)
    mask, reset = torch.zeros(3, 33, dtype=torch.bool), torch.zeros(3, 33, dtype=torch.bool)
    places = [[*range(2, 9), *range(12, 31)], [*range(15)], [*range(4, 30)]]
    for b, place in enumerate(places):
        ids[b, place] = IDS[0, : len(place)]
        mask[b, place] = True
    ids[1, 15:28], mask[1, 15:28], reset[1, 15] = IDS[0, :13], True, True
    reset[0, 10] = True  # at padding: ignored
    for inplace in (False, True):
        for calls in ([], [3, 11, 20], range(1, 33)):
            y, state = feed(model, ids, model.init_state(3), calls, inplace, mask=mask, reset=reset)
            for b, place in enumerate(places):
                close(y[b, place], want[: len(place)])
            close(y[1, 15:28], want[:13])
            assert state.position.tolist() == [26, 13, 26]


@every_shape
def test_attention_in_small_blocks(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few queries: the oracle's outputs and gradients hold where one follows the other."""
    monkeypatch.setattr(window, "BLOCK", 4)
    monkeypatch.setattr(attention, "BLOCK", 3)
    test_logits_and_gradients(keys)
    test_any_calls_with_padding_and_resets(keys)


def test_unused_parameters_are_the_only_ones_without_a_gradient() -> None:
    model = make_model(full(SHAPES[0])).requires_grad_(True)
    loss = model(IDS[:, :30])[0].square().sum()
    loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(n.endswith("router.online") for n in silent)


@pytest.mark.parametrize(
    "ids", [torch.tensor([[0, VOCAB]]), torch.tensor([[-1, 3]]), torch.tensor([1, 2]), torch.tensor([[0.5]])]
)
def test_ids_that_cannot_be_are_refused(ids: torch.Tensor) -> None:
    model = make_model(full(SHAPES[0]))
    with pytest.raises(st.errors.InputError, match="ids"):
        model(ids)


def test_masks_states_and_phases_that_do_not_fit_are_refused() -> None:
    model = make_model(full(SHAPES[0]))
    with pytest.raises(st.errors.InputError, match="mask"):
        model(IDS, mask=torch.ones(3, 39, dtype=torch.bool))
    with pytest.raises(st.errors.InputError, match="mask"):
        model(IDS, mask=torch.ones(3, 40))
    with pytest.raises(st.errors.InputError, match="reset"):
        model(IDS, reset=torch.ones(2, 40, dtype=torch.bool))
    with pytest.raises(st.errors.InputError, match="state"):
        model(IDS, model.init_state(2))
    with pytest.raises(st.errors.InputError, match="phase"):
        model.init_state(1, phase=[4])
    with pytest.raises(st.errors.InputError, match="phase"):
        model.init_state(1, phase=[-1])
