"""max_bytes: what a bank really takes, whatever is kept of a checkpoint, and the same number of checkpoints in any dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.bank.codec import unpack
from siltstone.errors import ConfigError

from .common import PROBE, STREAM, agrees, close, make_layer, oracles, randn
from .grid import APART, MEMORIES, inner
from .models import IDS, make_model, model_config, through_bytes

BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=0, position="rope", write_delay="window", compress="identity",
    rate=1, cache="gated", segment=4, segments="constant", start="restart", gate="sigmoid", top_k=2, router="mean", router_dim=4,
)  # fmt: skip
BANKS: list[dict[str, Any]] = [
    {},
    dict(router="subblock:2"),
    dict(evict="use", cache="sparse", router="subblock:1"),
    dict(evict="merge", router="subblock:2", segments="content"),
    dict(cache="residual"),
]
KINDS = ["float32", "bfloat16", "int8"]
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def config(memory: str, **keys: Any) -> dict[str, Any]:
    return BASE | dict(memory=memory, memory_options=inner(memory)) | keys


@pytest.mark.parametrize(
    ("memory", "keys", "kind"),
    [
        pytest.param(memory, keys, KINDS[(i + j) % 3], id="-".join([memory, KINDS[(i + j) % 3], *map(str, keys.values())]))
        for i, memory in enumerate(MEMORIES)
        for j, keys in enumerate(BANKS)
    ],
)
def test_a_bank_takes_no_more_than_its_bytes(memory: str, keys: dict[str, Any], kind: str) -> None:
    """A full one leaves no room for one checkpoint more."""
    cfg = config(memory, checkpoint_dtype=kind) | keys
    if memory in APART and keys.get("evict") == "merge":
        cfg |= dict(start="carry")
    one = make_layer(cfg | dict(max_checkpoints=1)).float()
    each = one(STREAM[None].float())[1].layers[0].bank.nbytes
    for most in (each, 3 * each - 1, 3 * each):
        layer = make_layer(cfg | dict(max_bytes=most))
        for dtype in TYPES:
            with torch.no_grad():
                bank = layer.to(dtype)(STREAM[None].expand(2, -1, -1).to(dtype))[1].layers[0].bank
            assert bank.width == most // each
            assert bank.nbytes <= 2 * most * (2 if dtype == torch.float64 else 1)  # two rows
            assert dtype == torch.float64 or bank.nbytes == 2 * each * (most // each)
    with pytest.raises(ConfigError, match=f"max_bytes={each - 1} .* at least {each}"):
        make_layer(cfg | dict(max_bytes=each - 1))


def test_a_budget_in_bytes_is_one_in_checkpoints_whatever_the_dtype_at_its_making() -> None:
    cfg = config("linear")
    each = 2 * 4 * 4 * 4 + 2 * 8 + 4 * 4 + 8  # a state, the last segment and how many, a routing sum and the writes under it
    before = torch.get_default_dtype()
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            layer, like = (make_layer(cfg | keys) for keys in (dict(max_bytes=3 * each - 1), dict(max_checkpoints=2)))
        finally:
            torch.set_default_dtype(before)
        with torch.no_grad():
            (y, state), (want, _) = layer(STREAM[None]), like(STREAM[None])
        close(y, want)
        assert state.checkpoints()[0].tolist() == [2]


def test_a_layer_that_follows_keeps_as_many_as_the_one_it_follows() -> None:
    keys = dict(max_bytes=600, depth=2, layers={"1": {"routing": "shared"}})
    model = make_model(model_config(config("gated"), **keys)).float()
    _, state = model(IDS[:1])
    assert [c.tolist() for c in state.checkpoints()] == [[3], [3]]
    assert [layer.bank.nbytes for layer in state.layers] == [504, 432]
    assert state.parts()["checkpoints"] <= 2 * 600
    with pytest.raises(ConfigError, match="router_dim"):
        st.LMConfig.from_dict(model_config(config("gated"), **keys | dict(layers={"1": {"routing": "shared", "router_dim": 2}})))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cache", ["gated", "sparse"])
def test_reads_are_counted_without_end(cache: str, dtype: torch.dtype) -> None:
    """2^25 of them and a few more, in a state that was moved, saved and forked: float32 would count no further."""
    model = make_model(model_config(config("gated", cache=cache, max_checkpoints=2, evict="use", window=2))).to(dtype)
    _, few = model(IDS[:1, :12])  # 10 writes: the next two tokens seal nothing
    full = {f"layers.0.bank.{name}": torch.full((1, 2), 2.0**25, dtype=torch.float64) for name in ("mass", "reads")}
    many = model.load_state(few.tensors() | full, few.meta())
    many = through_bytes(model, many.to(torch.float32).to(torch.bfloat16).to(dtype)).fork().select([0])
    few = few.to(torch.bfloat16).to(dtype)
    before = few.layers[0].bank.mass
    for n in range(1, 3):
        (_, few), (_, many) = (model(IDS[:1, 11 + n : 12 + n], s) for s in (few, many))
        bank = many.layers[0].bank
        assert bank.reads.tolist() == [[2.0**25 + n] * 2]
        assert (few.layers[0].bank.mass > before).any()
        assert torch.allclose(bank.mass - 2.0**25, few.layers[0].bank.mass - before, rtol=0, atol=1e-7)
    for state in (model(IDS[:1, 14:30], many)[1], type(many).cat([many, model.init_state(1)])):
        assert state.layers[0].bank.mass.dtype == state.layers[0].bank.reads.dtype == torch.float64


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("memory", ["deep", "titans"])
def test_merged_weights_are_held_to_their_limit(memory: str, kind: str) -> None:
    """As the oracle's; and in a long text, where the changes of many segments add up, no larger than online weights may be."""
    cfg = config(memory, max_checkpoints=2, evict="merge", checkpoint_dtype=kind)
    cfg["memory_options"] = cfg["memory_options"] | dict(limit=0.7, inner_lr=2.0)
    layer = make_layer(cfg)
    agrees(layer, STREAM, PROBE, oracles(cfg, layer, STREAM, PROBE))
    rule, reached = layer.mix.memory, 0.0
    with torch.no_grad():
        _, state = layer(randn(2, 800, 8, seed=3))
        for kept, first in zip(unpack(state.layers[0].bank.factors, torch.float64), (rule.w_in, rule.w_out), strict=True):
            share = (kept.norm(dim=(-2, -1)) / first.norm(dim=(-2, -1)).unsqueeze(1))[:, :, 0]  # the merged one comes first
            assert bool((share <= 0.7 * 1.01).all())
            reached = max(reached, float(share.max()))
    assert reached > 0.69


def test_int8_errs_by_half_a_step_at_every_merge() -> None:
    """The merged checkpoint beside the one that is never rounded: no further apart than half of each merge's step, added up."""
    keys = dict(max_checkpoints=1, evict="merge")
    exact, rounded = (make_layer(config("linear", checkpoint_dtype=kind, **keys)) for kind in ("float32", "int8"))
    a = b = None
    most = torch.zeros(())
    with torch.no_grad():
        for x in randn(60, 1, 4, 8, seed=8):
            (_, a), (_, b) = exact(x, a), rounded(x, b)
            want, (codes, scale) = a.layers[0].bank.factors[0], b.layers[0].bank.factors
            most = most + scale / 2
            apart = (unpack((codes, scale), torch.float64)[0] - want).abs()
            assert bool((apart <= most * (1 + 1e-6) + 1e-6).all())
        assert bool((apart > scale).any()), "errors do add up"
