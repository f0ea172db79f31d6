"""`state.to(dtype)` goes with `model.to(dtype)`: what it casts, what it leaves, and that the stream goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import siltstone as st

from .common import feed
from .grid import MEMORIES, inner
from .models import IDS, make_model, model_config, same_bits, stepwise, through_bytes

BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=2, position="rope", write_delay="window", compress="identity",
    rate=1, cache="gated", segment=4, segments="constant", start="restart", gate="softmax", top_k=2, router="mean", router_dim=4,
    short_conv=2, memory="gated_delta", memory_options={},
)  # fmt: skip
ROUNDED = [dict(checkpoint_dtype=kind) for kind in ("bfloat16", "int8")]
LOGARITHMIC = dict(segments="logarithmic")
USE = dict(max_checkpoints=2, evict="use", cache="sparse")
BANKS: list[dict[str, Any]] = [
    {},
    *ROUNDED,
    LOGARITHMIC,
    *(LOGARITHMIC | kind for kind in ROUNDED),
    LOGARITHMIC | dict(memory="gated"),
    USE,
    *(USE | kind for kind in ROUNDED),
    dict(max_checkpoints=2, evict="merge", router="subblock:2"),
    dict(cache="exact", cache_options=dict(writes=5)),
    dict(cache="none"),
    dict(depth=3, pattern="maw"),
    dict(memory="slstm") | LOGARITHMIC,
]
names = {"ids": lambda k: "-".join(map(str, k.values())) or "plain"}
every_bank = pytest.mark.parametrize("keys", BANKS, **names)
NEAR = {torch.bfloat16: 0.15, torch.float32: 1e-5, torch.float64: 1e-10}  # bfloat16: other writes may surprise most
TYPES = [torch.float16, *NEAR]


def of(dtype: torch.dtype, keys: dict[str, Any]) -> Any:
    """The same model in any dtype."""
    return make_model(model_config(BASE, **keys)).to(dtype)


def kinds(state: Any) -> dict[str, torch.dtype]:
    return {name: t.dtype for name, t in state.tensors().items()}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("memory", MEMORIES)
def test_every_rule_has_the_types_of_a_model_of_that_type(memory: str, dtype: torch.dtype) -> None:
    keys = dict(memory=memory, memory_options=inner(memory))
    for source in TYPES:
        state = of(source, keys).init_state(1)
        assert kinds(state.to(dtype)) == kinds(of(dtype, keys).init_state(1))


@every_bank
def test_every_bank_has_the_types_of_a_model_of_that_type(keys: dict[str, Any]) -> None:
    """Moved from one type to any other and back: those that a model of that type makes by itself."""
    states = {dtype: of(dtype, keys)(IDS[:1, :22])[1] for dtype in TYPES[1:]}
    for source in states.values():
        for dtype, made in states.items():
            assert kinds(source.to(dtype)) == kinds(made)
            same_bits(source.to(dtype).to(device="cpu"), source.to("cpu", dtype))
        wider = source.to(torch.float64)
        same_bits(wider.to(next(d for d, s in states.items() if s is source)), source)  # nothing was lost on the way


@every_bank
@pytest.mark.parametrize("dtype", TYPES[1:])
def test_a_moved_state_goes_on(keys: dict[str, Any], dtype: torch.dtype) -> None:
    exact, model = of(torch.float64, keys), of(dtype, keys)
    _, state = exact(IDS[:1, :22])
    want, _ = exact(IDS[:1, 22:], state)
    moved = state.to(dtype)
    same_bits(through_bytes(model, moved), moved)
    for steps in ([], range(1, 18)):
        got, after = feed(model, IDS[:1, 22:], moved, steps)
        assert got.dtype == dtype and got.isfinite().all()
        assert float((got.double() - want).abs().max()) <= NEAR[dtype] * float(want.abs().max())
        assert kinds(after) == kinds(moved)


@every_bank
def test_a_moved_state_is_a_stream_of_its_own(keys: dict[str, Any]) -> None:
    """Both seal behind what they share, neither over what the other has sealed."""
    wide, narrow = of(torch.float64, keys), of(torch.float32, keys)
    _, state = stepwise(wide, IDS[:1, :26], None)  # with room for more checkpoints
    want, alone = narrow(IDS[:1, 26:], state.to(torch.float32))
    before, first = narrow(IDS[:1, 26:36], state.to(torch.float32))
    wide(IDS[1:2, 5:15], state)
    after, last = narrow(IDS[:1, 36:], first)
    assert float((torch.cat([before, after], 1) - want).abs().max()) <= 1e-5 * float(want.abs().max())
    assert kinds(last) == kinds(alone)


def test_a_type_that_no_model_has_is_refused() -> None:
    state = of(torch.float32, {}).init_state(1)
    with pytest.raises(st.errors.InputError, match="dtype=torch.int8 .* torch.bfloat16"):
        state.to(torch.int8)
