"""Metamorphic laws: configurations that must agree with one another, or must not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st

from ..oracle.rule import l2, rms
from .common import STREAM, close, differ, make_layer
from .grid import APART, INNER, MEMORIES, STARTS, caches, inner, used

BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, window=3, memory="linear", cache="gated", segment=4, router_dim=4, gate="softmax", top_k=2
)  # fmt: skip

every_memory = pytest.mark.parametrize("memory", MEMORIES)
every_start = pytest.mark.parametrize("start", STARTS)
both_gates = pytest.mark.parametrize("gate", ["softmax", "sigmoid"])


def config(memory: str, **keys: Any) -> dict[str, Any]:
    return BASE | dict(memory=memory, memory_options=inner(memory)) | keys


def outputs(cfg: dict[str, Any], x: Tensor = STREAM, **changed: Any) -> Tensor:
    """y [T, D] of the layer with `cfg`, or of one with other keys and the same weights."""
    layer = make_layer(cfg)
    other = make_layer(cfg | changed)
    mine = layer.state_dict()
    other.load_state_dict({name: mine.get(name, value) for name, value in other.state_dict().items()})
    assert not changed or cfg | changed != cfg
    with torch.no_grad():
        return other(x[None])[0][0]


@pytest.mark.parametrize("memory", [memory for memory in MEMORIES if "soup" in caches(memory)])
@every_start
@both_gates
def test_soup_is_gated_where_the_read_is_linear(memory: str, start: str, gate: str) -> None:
    cfg = config(memory, start=start, gate=gate)
    soup, gated = outputs(cfg, cache="soup"), outputs(cfg)
    if memory in INNER:
        assert differ(soup, gated)
    else:
        close(soup, gated)


@every_memory
@every_start
@both_gates
def test_sparse_with_many_is_gated(memory: str, start: str, gate: str) -> None:
    cfg = config(memory, start=start, gate=gate)
    close(outputs(cfg, cache="sparse", top_k=9), outputs(cfg))
    assert differ(outputs(cfg, cache="sparse", top_k=1), outputs(cfg))


@every_memory
@pytest.mark.parametrize("segments", ["constant", "logarithmic"])
def test_sparse_ties_go_to_the_most_recent(memory: str, segments: str) -> None:
    layer = make_layer(config(memory, cache="sparse", top_k=1, gate="sigmoid", segments=segments))
    with torch.no_grad():
        layer.mix.router.query.weight.zero_()
        x = STREAM[None, :16].repeat(3, 1, 1)  # 13 writes, 3 sealed segments; the last one holds writes 8 to 11
        x[1, :8] += 1.0
        x[2, 10] += 1.0
        y = layer(x)[0][:, -1]
    close(y[1], y[0])
    assert differ(y[2], y[0])


@every_memory
@every_start
def test_residual_is_gated_with_unit_weights(memory: str, start: str) -> None:
    cfg = config(memory, start=start, gate="sigmoid")
    gated, residual = make_layer(cfg), make_layer(cfg | dict(cache="residual"))
    with torch.no_grad():
        gated.mix.router.bias.fill_(60.0)
        residual.load_state_dict({n: p for n, p in gated.state_dict().items() if n in residual.state_dict()})
        close(residual(STREAM[None])[0], gated(STREAM[None])[0])


@pytest.mark.parametrize("memory,cache", [(m, cache) for m in MEMORIES for cache in caches(m) if cache not in ("none", "exact")])
def test_one_segment_is_the_plain_memory(memory: str, cache: str) -> None:
    cfg = config(memory, segment=64, cache=cache, gate="sigmoid")
    close(outputs(cfg), outputs(cfg, cache="none"))


@every_memory
@every_start
def test_logarithmic_is_constant_until_the_first_merge(memory: str, start: str) -> None:
    cfg = config(memory, start=start)
    constant, log = outputs(cfg), outputs(cfg, segments="logarithmic")
    close(log[:11], constant[:11])  # the second segment is sealed by write 8, at token 11
    assert differ(log[11:], constant[11:])


@pytest.mark.parametrize("compress", ["mean", "gated"])
@every_memory
def test_a_mean_of_identical_tokens_is_one_write(memory: str, compress: str) -> None:
    cfg = config(memory, write_delay=0, window=2, position="none")
    x = STREAM[:14]
    pooled = make_layer(cfg | dict(rate=2, compress=compress, segment=8))
    with torch.no_grad():
        pooled.load_state_dict(make_layer(cfg).state_dict(), strict=False)
        twice = pooled(x.repeat_interleave(2, 0)[None])[0][0, 1::2]
    close(twice, outputs(cfg | dict(window=1), x))  # a window of two identical tokens averages to that token


def test_convolution_and_gates_begin_as_the_mean() -> None:
    cfg = used(config("linear", rate=2, segment=8))
    mean = st.MemoryCaching(**cfg, compress="mean").double()
    with torch.no_grad():
        for compress in ("conv", "gated"):
            other = st.MemoryCaching(**cfg, compress=compress).double()
            other.load_state_dict(mean.state_dict(), strict=False)
            for name, p in other.named_parameters():
                if "compress.gate" in name:
                    assert differ(other(STREAM[None])[0], mean(STREAM[None])[0])
                    p.zero_()
            close(other(STREAM[None])[0], mean(STREAM[None])[0])


@every_memory
@every_start
@pytest.mark.parametrize("evict", ["age", "use", "merge"])
def test_a_large_budget_is_no_budget(memory: str, start: str, evict: str) -> None:
    cfg = config(memory, start=start)
    if memory in APART and (start, evict) == ("restart", "merge"):
        with pytest.raises(st.errors.ConfigError, match="cannot be added"):
            st.MemoryCaching(**cfg, max_checkpoints=9, evict=evict)
        return
    close(outputs(cfg, max_checkpoints=9, evict=evict), outputs(cfg))
    assert differ(outputs(cfg, max_checkpoints=2, evict=evict), outputs(cfg))


def test_merged_linear_segments_sum_up() -> None:
    cfg = config("linear", cache="residual")
    close(outputs(cfg, max_checkpoints=2, evict="merge"), outputs(cfg))
    assert differ(outputs(cfg, max_checkpoints=2), outputs(cfg))


@every_memory
@both_gates
def test_one_sub_block_is_the_mean(memory: str, gate: str) -> None:
    cfg = config(memory, gate=gate)
    close(outputs(cfg, router="subblock:4"), outputs(cfg))
    assert differ(outputs(cfg, router="subblock:2"), outputs(cfg))


@every_start
def test_segments_of_one_with_a_vector_memory_are_attention_over_the_states(start: str) -> None:
    layer = make_layer(config("gru", segment=1, start=start, write_delay=0, window=0, position="none"))
    x, norm = STREAM[:9], torch.nn.functional.rms_norm
    with torch.no_grad():
        layer.mix.router.online.copy_(layer.mix.router.bias)
        inputs, gru = norm(STREAM[:9], (8,), layer.mix.memory.norm.weight, 1e-6), layer.mix.memory.gru
        h = gru(inputs[None])[0][0] if start == "carry" else gru(inputs[:, None])[0][:, 0]
        u, kappa = l2(layer.mix.router.query(x)), l2(layer.mix.router.key(x))
        logits = layer.mix.router.log_scale.exp()[:, None, None] * (u @ kappa.T)
        attention = torch.softmax(logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf), -1)
        read = torch.einsum("hts,shv->thv", attention, h.view(9, 2, 4))
        want = layer.mix.out(rms(read, layer.mix.norm, 1e-6).reshape(9, 8))
        close(layer(x[None])[0][0], want)


def test_restarted_linear_segments_sum_up() -> None:
    cfg = config("linear", cache="residual")
    close(outputs(cfg), outputs(cfg, cache="none"))
    close(outputs(cfg), outputs(cfg, segments="logarithmic"))


@pytest.mark.parametrize("gate", ["lstm", "gru"])
def test_a_slot_with_a_closed_gate_stays_what_it_was(gate: str) -> None:
    options = dict(number=1, inner_batch=3, gate=gate)
    layer = make_layer(config("slots", memory_options=options, cache="none"))
    memory = layer.mix.memory
    with torch.no_grad():
        memory.gate.zero_()
        closed = torch.tensor([0.3, -1e4, 1e4] if gate == "lstm" else [0.3, -1e4], dtype=torch.float64)
        memory.bias.copy_(closed.repeat_interleave(4).repeat(2))
        y, state = layer(STREAM[None])
        assert torch.equal(state.layers[0].online.slots, memory.first[None])
        alone = rms(memory.first[:, 0], layer.mix.norm, 1e-6)  # a read of a single slot is that slot
        memory.bias.copy_(-closed.repeat_interleave(4).repeat(2))
        _, other = layer(STREAM[None])
        window = make_layer(config("slots", memory_options=options, cache="none"))
        window.mix.norm.zero_()
        close(y[0, 3:], window(STREAM[None])[0][0, 3:] + layer.mix.out(alone.reshape(8)))
    assert differ(other.layers[0].online.slots, memory.first[None])


@every_memory
def test_before_the_first_write_the_memory_is_silent(memory: str) -> None:
    cfg = config(memory)
    alone = outputs(cfg, STREAM[:3])
    layer = make_layer(cfg)
    with torch.no_grad():
        layer.mix.norm.fill_(1e9)
        y = layer(STREAM[None, :4])[0][0]
    close(y[:3], alone)
    assert y[3].abs().max() > 1e6  # the fourth token sees the first write
