"""Positions never run out: the laws hold at ten million tokens, and at ten billion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ..oracle import layer as oracle_layer
from .common import STREAM, close, feed, make_layer, weights
from .grid import INNER, MEMORIES, caches, inner
from .models import IDS, make_model, model_config

TEN_MILLION = 10_000_032  # here a merge of eight segments is near
BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=4, sinks=2, position="rope", write_delay="window",
    compress="identity", rate=1, cache="gated", segment=4, segments="logarithmic", start="restart", gate="sigmoid", top_k=2,
    router="mean", router_dim=4, memory_options={},
)  # fmt: skip


def with_slots(tensors: dict[str, Tensor], slots: int) -> dict[str, Tensor]:
    """Banks with logarithmic segments grown to so many slots, of zeros."""
    out = dict(tensors)
    for name, t in tensors.items():
        if ".bank." in name and not name.endswith(".fades.online"):
            axis = 2 if ".stages." in name else 1
            shape = [n if i != axis else slots - n for i, n in enumerate(t.shape)]
            out[name] = torch.cat([t, t.new_zeros(shape)], axis)
    return out


MATRICES = ["linear", "gated", "gated_delta"]
KEYS: list[dict[str, Any]] = [{}, dict(rate=2, compress="mean", window=3), dict(write_delay=0, sinks=0), dict(start="carry")]
KEYS += [dict(position="alibi", kv_heads=1, rate=2, compress="mean"), dict(position="alibi", sinks=0, short_conv=3)]


@pytest.mark.parametrize("shape", range(len(KEYS)))
@pytest.mark.parametrize("cache", ["none", "residual", "gated"])
def test_ten_million_silent_tokens(cache: str, shape: int) -> None:
    """After tokens of zeros, which leave a matrix memory as it is: ten million of them, or a few for the oracle."""
    memory = MATRICES[(shape + len(cache)) % 3]
    cfg = BASE | dict(memory=memory, cache=cache) | KEYS[shape]
    layer = make_layer(cfg)
    empty = layer.init_state(1)
    segments = (TEN_MILLION - 6) // 4
    tensors, meta = with_slots(empty.tensors(), segments.bit_length()), empty.meta() | dict(position=[TEN_MILLION])
    few = TEN_MILLION % 64 + 64  # the same place in its segment, and in the low digits of the number of segments
    silent = torch.zeros(few, 8, dtype=torch.float64)
    with torch.no_grad():
        want = oracle_layer.run(cfg, weights(layer), torch.cat([silent, STREAM]))[few:]
        for cuts in ([], [1, 5, 6, 17], range(1, 28)):
            y, state = feed(layer, STREAM[None], layer.load_state(tensors, meta), cuts)
            close(y[0], want)
            assert state.position.tolist() == [TEN_MILLION + 28]


@pytest.mark.parametrize(
    "memory,cache", [(m, cache) for m in MEMORIES for cache in ("none", "residual", "gated", "exact") if cache in caches(m)]
)
def test_a_row_moved_by_billions_goes_on_as_before(memory: str, cache: str) -> None:
    """2^33 tokens further: whole turns of every angle, whole rounds of the ring, one bit of the number of segments."""
    if memory in INNER and cache not in ("none", "exact"):
        cache = "none"  # a checkpoint of zeros, as added here, is not silent
    cfg = BASE | dict(memory=memory, memory_options=inner(memory), cache=cache)
    if cache == "exact":
        cfg |= dict(cache_options=dict(writes=3))
    layer = make_layer(cfg)
    with torch.no_grad():
        near, state = layer(STREAM[None, :15])
        tensors, meta = with_slots(state.tensors(), 32), state.meta()
        far = layer.load_state(tensors, meta | dict(position=[15 + 2**33]))
        want, _ = layer(STREAM[None, 15:], state)
        close(layer(STREAM[None, 15:], far)[0], want)
        close(feed(layer, STREAM[None, 15:], far, range(1, 13))[0], want)


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_full_attention_far_away(position: str) -> None:
    """Attention depends on distances alone."""
    model = make_model(model_config(BASE, pattern="a", memory="gated", position=position))
    empty = model.init_state(3)
    far = replace(empty, positions=replace(empty.positions, position=np.array([TEN_MILLION, 2**40, 7])))
    close(feed(model, IDS, far, [3, 20])[0], model(IDS)[0])
