"""Known facts about segments and caching policies, shown on the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from .caches import Store
from .layer import Row, run
from .memories import MEMORIES
from .rule import l2, rms
from .segments import live_spans
from .weights import BASE, INNER, layer_weights, stream
from .window import Config

RULES = list(MEMORIES)


def rule(memory: str) -> Config:
    return INNER.get(memory, dict(memory=memory))


def same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-11)


def test_live_spans_are_the_binary_digits() -> None:
    assert live_spans(37, "logarithmic") == [(0, 32), (32, 36), (36, 37)]
    assert live_spans(3, "constant") == [(0, 1), (1, 2), (2, 3)]
    assert live_spans(0, "logarithmic") == live_spans(0, "constant") == []


def test_the_write_that_fills_a_segment_leaves_it_online() -> None:
    row = Row(BASE, layer_weights(BASE))
    sealed = []
    for x_D in stream(16):
        row.step(x_D)
        assert row.bank is not None
        sealed.append(len(row.bank.ends))
    assert sealed == [0] * 7 + [1] * 4 + [2] * 4 + [3]  # write m is made at token m + 3; cuts come before writes 4, 8, 12


def test_a_phase_moves_the_first_cut_only() -> None:
    row = Row(BASE, layer_weights(BASE), phase=3)
    for x_D in stream(14):
        row.step(x_D)
    assert row.bank is not None
    assert [len(segment) for segment in row.bank.segments] == [1, 4, 4, 2]


@pytest.mark.parametrize("start", ["restart", "carry"])
@pytest.mark.parametrize("memory", RULES)
def test_soup_is_gated_where_the_read_is_linear(memory: str, start: str) -> None:
    cfg = BASE | rule(memory) | dict(start=start)
    w, x = layer_weights(cfg), stream(16)
    assert same(run(cfg | dict(cache="soup"), w, x), run(cfg, w, x)) is (memory not in (*INNER, "mlstm"))


@pytest.mark.parametrize("memory", RULES)
def test_sparse_with_many_is_gated(memory: str) -> None:
    cfg = BASE | rule(memory)
    w, x = layer_weights(cfg), stream(20)
    assert same(run(cfg | dict(cache="sparse", top_k=9), w, x), run(cfg, w, x))
    assert not same(run(cfg | dict(cache="sparse", top_k=1), w, x), run(cfg, w, x))


def test_sparse_ties_go_to_the_most_recent() -> None:
    """With a router that scores everything 0, one checkpoint of several is read: the last."""
    cfg = BASE | dict(cache="sparse", top_k=1, gate="sigmoid")
    w, x = layer_weights(cfg), stream(16)
    w["router.query.weight"] = torch.zeros_like(w["router.query.weight"])
    changed = x.clone()
    changed[4:8] += 1  # written to the second checkpoint of three
    assert same(run(cfg, w, x)[-1], run(cfg, w, changed)[-1])
    changed[8:12] += 1
    assert not same(run(cfg, w, x)[-1], run(cfg, w, changed)[-1])


@pytest.mark.parametrize("memory", RULES)
def test_residual_is_gated_with_unit_weights(memory: str) -> None:
    cfg = BASE | rule(memory) | dict(gate="sigmoid")
    w, x = layer_weights(cfg), stream(16)
    w["router.bias"] = torch.full((2,), 60.0, dtype=torch.float64)
    assert same(run(cfg | dict(cache="residual"), w, x), run(cfg, w, x))


@pytest.mark.parametrize("cache", ["residual", "gated", "soup", "sparse"])
@pytest.mark.parametrize("memory", RULES)
def test_one_segment_is_the_plain_memory(memory: str, cache: str) -> None:
    cfg = BASE | rule(memory) | dict(segment=64, cache=cache)
    w, x = layer_weights(cfg), stream(12)
    assert same(run(cfg, w, x), run(cfg | dict(cache="none"), w, x))


@pytest.mark.parametrize("start", ["restart", "carry"])
@pytest.mark.parametrize("memory", RULES)
def test_logarithmic_is_constant_until_the_first_merge(memory: str, start: str) -> None:
    cfg = BASE | rule(memory) | dict(start=start)
    w, x = layer_weights(cfg), stream(16)
    constant, log = run(cfg, w, x), run(cfg | dict(segments="logarithmic"), w, x)
    assert same(constant[:11], log[:11])  # the second segment is sealed by write 8, at token 11
    assert not same(constant[11:], log[11:])


@pytest.mark.parametrize("memory", RULES)
def test_mean_of_identical_tokens_is_one_token(memory: str) -> None:
    cfg = BASE | rule(memory) | dict(write_delay=0, window=2, position="none")
    w, x = layer_weights(cfg), stream(9)
    twice = run(cfg | dict(rate=2, compress="mean", segment=8), w, x.repeat_interleave(2, 0))[1::2]
    once = run(cfg | dict(window=1), w, x)  # the window of two identical tokens averages to that token
    assert same(twice, once)


@pytest.mark.parametrize("start", ["restart", "carry"])
def test_segments_of_one_with_a_vector_memory_are_attention_over_the_states(start: str) -> None:
    cfg = BASE | dict(memory="gru", segment=1, start=start, write_delay=0, window=0)
    w, x = layer_weights(cfg), stream(7)
    w["router.online"] = w["router.bias"]
    memory = MEMORIES["gru"](cfg, w)
    state, states = memory.init(), []
    for x_D in x:
        state = memory.write(memory.init() if start == "restart" else state, x_D)
        states.append(state[0])
    h_THV = torch.stack(states)
    u_TR, kappa_TR = l2(x @ w["router.query.weight"].T), l2(x @ w["router.key.weight"].T)
    logits_HTT = w["router.log_scale"].exp()[:, None, None] * (u_TR @ kappa_TR.T)
    weights_HTT = torch.softmax(logits_HTT.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf), -1)
    read_THV = torch.einsum("hts,shv->thv", weights_HTT, h_THV)
    assert same(run(cfg, w, x), rms(read_THV, w["norm"], 1e-6).reshape(7, 8) @ w["out.weight"].T)


def test_logarithmic_restart_of_a_linear_memory_is_the_sum_of_its_parts() -> None:
    cfg = BASE | dict(segments="logarithmic", cache="residual")
    w, x = layer_weights(cfg), stream(30)
    assert same(run(cfg, w, x), run(cfg | dict(segments="constant"), w, x))
    assert same(run(cfg, w, x), run(cfg | dict(cache="none"), w, x))


def exact(writes: int) -> Config:
    return dict(cache="exact", cache_options=dict(writes=writes))


@pytest.mark.parametrize("delay,rate,sinks", [("window", 1, 0), ("window", 2, 2), (0, 1, 1), (0, 3, 0)])
def test_a_store_of_all_writes_is_full_attention(delay: str | int, rate: int, sinks: int) -> None:
    keys = dict(write_delay=delay, rate=rate, sinks=sinks, compress="mean", segment=6, position="none")
    cfg = BASE | keys | exact(20)
    w, x = layer_weights(cfg), stream(20)
    w["norm"] = torch.zeros_like(w["norm"])
    assert same(run(cfg, w, x), run(cfg, w, x, kind="attention"))
    assert not same(run(cfg | exact(1), w, x), run(cfg, w, x))


def test_surprise_is_what_the_memory_gets_wrong() -> None:
    """A repeated token whose key held nothing else is no surprise the second time; a delta rule that erases learns it at once."""
    cfg = BASE | dict(memory="delta")
    w, x_D = layer_weights(cfg), stream(1)[0]
    w["memory.gates.bias"] = torch.full((2,), 60.0, dtype=torch.float64)
    memory = MEMORIES["delta"](cfg, w)
    v = memory.key_value(x_D)[1]
    first = memory.surprise(memory.init(), x_D)
    assert first == pytest.approx(float(v.square().sum()), abs=1e-12) and first > 1
    assert memory.surprise(memory.write(memory.init(), x_D), x_D) < 1e-9


def test_the_largest_surprises_are_stored_and_of_equals_the_most_recent() -> None:
    store = Store(3)
    for number, surprise in enumerate([5.0, 1.0, 4.0, 4.0, 0.5, 4.0, 2.0]):
        store.offer(surprise, [(number, torch.zeros(8))])
    assert sorted(number for _, number, _ in store.kept) == [0, 3, 5]
    assert sorted(j for j, _ in store.beyond([(5, torch.zeros(8))])) == [0, 3]


def test_before_the_first_write_the_memory_is_silent() -> None:
    for memory in RULES:
        cfg = BASE | rule(memory)
        w, x = layer_weights(cfg), stream(3)
        assert same(run(cfg, w, x), run(cfg, w, x, kind="window"))
