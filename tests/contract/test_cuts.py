"""Segments that end where the caller cuts: laws, the checkpoints themselves, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st

from ..oracle import layer as oracle_layer
from .common import STREAM, close, differ, feed, make_layer, randn, weights
from .grid import INNER, MEMORIES, STARTS, inner
from .models import IDS, make_model, model_config, same_bits, through_bytes

BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=0, position="rope", write_delay="window",
    compress="identity", rate=1, cache="gated", segment=4, segments="content", start="restart", gate="softmax", top_k=2,
    router="mean", router_dim=4,
)  # fmt: skip
BANKS: list[dict[str, Any]] = [
    dict(cache="residual"),
    dict(router="subblock:2", gate_distance="alibi"),
    dict(router="subblock:2", gate="sigmoid", cache="sparse", checkpoint_dtype="int8"),
    dict(router="subblock:4", max_checkpoints=2, rate=2, compress="mean", sinks=3),
    dict(router="subblock:2", max_checkpoints=1, evict="merge", start="carry"),
]
every_bank = pytest.mark.parametrize("keys", BANKS, ids=lambda k: "-".join(map(str, k.values())))
every_memory = pytest.mark.parametrize("memory", MEMORIES)


def config(memory: str, **keys: Any) -> dict[str, Any]:
    return BASE | dict(memory=memory, memory_options=inner(memory)) | keys


def flags(*tokens: int, length: int = len(STREAM)) -> Tensor:
    """[1, length], True at the given tokens."""
    return torch.tensor([[t in tokens for t in range(length)]])


@every_bank
@every_memory
def test_without_cuts_it_is_constant(memory: str, keys: dict[str, Any]) -> None:
    cfg = config(memory, **keys)
    content, constant = make_layer(cfg), make_layer(cfg | dict(segments="constant"))
    with torch.no_grad():
        for phase in range(4 // cfg["rate"]):
            for cut in (None, flags()):
                y, _ = content(STREAM[None], content.init_state(1, [phase]), cut=cut)
                close(y, constant(STREAM[None], constant.init_state(1, [phase]))[0])
        if (memory, keys) != ("linear", BANKS[0]):  # whose sum is the same, wherever it is cut
            assert differ(content(STREAM[None], cut=flags(9))[0], y)


@pytest.mark.parametrize("keys", [*BANKS[:4], dict(cache="residual", start="carry", max_checkpoints=2, evict="merge")])
@every_memory
def test_cuts_at_every_multiple_of_c_are_segments_of_c(memory: str, keys: dict[str, Any]) -> None:
    cfg = config(memory, **keys)
    content, constant = make_layer(cfg | dict(segment=16)), make_layer(cfg | dict(segments="constant"))
    ends = [cfg["sinks"] + 4 * i + 3 for i in range(7)]
    with torch.no_grad():
        want, _ = constant(STREAM[None])
        close(content(STREAM[None], cut=flags(*ends))[0], want)
        close(feed(content, STREAM[None], None, range(1, 28), cut=flags(*ends))[0], want)
        if (memory, keys) != ("linear", BANKS[0]):
            assert differ(content(STREAM[None])[0], want)


@pytest.mark.parametrize("start", STARTS)
@every_memory
def test_every_line_is_a_checkpoint(memory: str, start: str) -> None:
    """The checkpoints are what a memory of its own holds after the line; with `carry`, after all lines up to it."""
    cfg = config(memory, window=0, write_delay=0, position="none", cache="residual", segment=9, start=start)
    layer = make_layer(cfg)
    alone = make_layer(cfg | dict(cache="none", segments="constant"))
    alone.load_state_dict({n: p for n, p in layer.state_dict().items() if n in alone.state_dict()})
    ends = [0, 4, 7, 8, 17, 20, 27]  # the fifth line is as long as a segment; the last one is still online
    with torch.no_grad():
        _, state = layer(STREAM[None], cut=flags(*ends))
        assert state.checkpoints()[0].tolist() == [6]
        bank = state.layers[0].bank.store.views()
        assert bank[0].shape[2] == 6
        for n, (a, b) in enumerate(zip([-1, *ends[:-1]], ends, strict=True)):
            if start == "carry" and memory in INNER:
                break  # an inner batch begins anew at a cut
            _, want = alone(STREAM[None, (0 if start == "carry" else a + 1) : b + 1])
            factors = alone.mix.memory.read_factors(want.layers[0].online)
            got = layer.mix.memory.read_factors(state.layers[0].online) if n == 6 else [x[:, :, n] for x in bank]
            for x, y in zip(got, factors, strict=True):
                close(x, y, f"line {n}")
        _, state = layer(randn(1, 1, 8, seed=3), state, cut=torch.tensor([[False]]))
        assert state.checkpoints()[0].tolist() == [7]


def test_a_line_longer_than_a_segment_ends_when_it_is_full_and_cuts_count_once_a_block() -> None:
    layer = make_layer(config("linear", window=2, sinks=3, rate=2, compress="mean", segment=6))
    with torch.no_grad():
        _, state = layer(STREAM[None], layer.init_state(1, [1]), cut=flags(0, 2, 9, 10, 20))
    # 11 writes of tokens 3 4, 5 6 | 7 8, 9 10 | 11 12, 13 14, 15 16 | 17 18, 19 20 | 21 22, 23 24: the first one is full by phase
    assert state.checkpoints()[0].tolist() == [4]
    (store,) = [leaf for _, leaf in state.layers[0].leaves() if hasattr(leaf, "tide")]
    assert layer.mix.geo.segments(state.positions).opens(torch.arange(5)[None].numpy()).tolist() == [[0, 2, 4, 7, 9]]
    assert store.count.tolist() == [4]


@pytest.mark.parametrize("memory", ["gated", "deep"])
def test_many_cuts_in_long_calls(memory: str) -> None:
    """Lines of 1 to 40 writes, in segments of at most 33; rows cut at different places, in calls of any size."""
    cfg = config(memory, segment=33, memory_options=inner(memory, batch=16, expansion=1, inner_lr=0.3))
    layer, x = make_layer(cfg), randn(140, 8, seed=4)
    lines = [[3, 4, 44, 61, 62, 90, 131], [20, 57, 139], []]
    cut = torch.cat([flags(*ends, length=140) for ends in lines])
    with torch.no_grad():
        want = torch.stack([oracle_layer.run(cfg, weights(layer), x, cuts=ends) for ends in lines])
        for calls in ([], [1, 67, 131], range(100, 140)):
            y, state = feed(layer, x.expand(3, -1, -1), None, calls, cut=cut)
            close(y, want)
        assert [c.tokens.tolist() for c in state.positions.cuts] == lines


def test_cuts_far_away() -> None:
    """Ten billion silent tokens without a cut are one segment; from there on cuts count."""
    cfg = config("gated", cache="residual", segment=2**40)
    layer, far = make_layer(cfg), 10_000_000_000
    with torch.no_grad():
        want = oracle_layer.run(cfg, weights(layer), torch.cat([torch.zeros(8, 8).double(), STREAM]), cuts=[11, 12, 20])[8:]
        empty = layer.init_state(1)
        state = layer.load_state(empty.tensors(), empty.meta() | dict(position=[far]))
        for calls in ([], [4, 5, 11], range(1, 28)):
            y, after = feed(layer, STREAM[None], state, calls, cut=flags(3, 4, 12))
            close(y[0], want)
            assert after.positions.cuts[0].tokens.tolist() == [far + 3, far + 4, far + 12]
            back = layer.load_state(after.tensors(), after.meta())
            close(layer(STREAM[None], back)[0], layer(STREAM[None], after)[0])


def test_forks_are_cut_apart() -> None:
    """Cuts of a fork are not those of another, whoever comes first; values of earlier calls stay."""
    model = make_model(model_config(config("gated")))
    _, state = model(IDS[:1, :9], cut=flags(2, 5, length=9))
    seen = []
    for place in (9, 11, 10, 9):
        fork = state.fork()
        y, fork = feed(model, IDS[:1, 9:40], fork, [3, 4, 9], cut=flags(*range(place - 9, 31, 5), length=31))
        assert fork.positions.cuts[0].tokens.tolist() == [2, 5, *range(place, 40, 5)]
        assert state.positions.cuts[0].tokens.tolist() == [2, 5]
        seen.append((y, fork))
    assert torch.equal(seen[0][0], seen[3][0]) and differ(seen[0][0], seen[1][0])
    same_bits(seen[0][1], seen[3][1])
    same_bits(through_bytes(model, seen[1][1]), seen[1][1])
    both = type(state).cat([seen[1][1], seen[2][1]]).select([1, 0, 1])
    assert [c.tokens[2] for c in both.positions.cuts] == [10, 11, 10]


@pytest.mark.parametrize("segments", ["constant", "logarithmic"])
def test_cuts_are_refused_where_segments_do_not_end_by_content(segments: str) -> None:
    cfg = config("linear", segments=segments)
    for module, x in ((make_layer(cfg), STREAM[None]), (make_model(model_config(cfg)), IDS[:1, :28])):
        with pytest.raises(st.errors.InputError, match="cut was given, .*segments='content'"):
            module(x, cut=flags(3))
    with pytest.raises(st.errors.InputError, match="cut must be a bool tensor"):
        make_layer(config("linear"))(STREAM[None], cut=flags(3, length=27))


def test_saved_cuts_that_make_no_sense_are_refused() -> None:
    layer = make_layer(config("linear"))
    with torch.no_grad():
        _, state = layer(STREAM[None].expand(2, -1, -1), cut=torch.cat([flags(3, 4, 12), flags(7)]))
    tensors, meta = state.tensors(), state.meta()
    assert tensors["cuts"].tolist() == [3, 4, 12, 7] and meta["cuts"] == [3, 1]
    wrong = [[3, 4, 12], [3, 12, 4, 7], [3, 3, 12, 7], [-1, 4, 12, 7], [3, 4, 28, 7], [3, 4, 12, 28], [1, -(2**63), -1, 7]]
    for cuts in wrong:
        with pytest.raises(ValueError, match="cuts"):
            layer.load_state(tensors | {"cuts": torch.tensor(cuts)}, meta)
    with pytest.raises(ValueError, match="does not hold what position"):
        layer.load_state(tensors | {"cuts": torch.tensor([3, 4, 6, 7])}, meta)  # that would be one checkpoint more
    for counts in ([4], [4, 1], [-1, 5], [3, 1, 0], [3, "1"], [2**62, 2**62], None, 4):
        with pytest.raises(ValueError, match="cuts"):
            layer.load_state(tensors, meta | {"cuts": counts})
    for other in (tensors["cuts"].double(), tensors["cuts"][None]):
        with pytest.raises(ValueError, match="cuts"):
            layer.load_state(tensors | {"cuts": other}, meta)
    with pytest.raises(ValueError, match="cuts"):
        layer.load_state({n: t for n, t in tensors.items() if n != "cuts"}, meta)
    with pytest.raises(ValueError, match="'cuts' does not belong"):
        constant = make_layer(config("linear", segments="constant"))
        _, plain = constant(STREAM[None].expand(2, -1, -1))
        constant.load_state(plain.tensors() | {"cuts": tensors["cuts"]}, plain.meta())
