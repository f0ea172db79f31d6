"""Blocks in pages: the numbers of plain tensors, bit for bit, whatever free pages hold; who comes and goes copies no blocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import PoolFull
from siltstone.models.stream_state import LMState
from siltstone.state import Pools

from ..inference.test_batch_pages import Copied
from ..state.poison import poison
from .models import same_bits
from .test_blocks import CASES, IDS, LENGTH, config, make

AGES = (0, 1, 9, 14, 23, 30)
KINDS = {name: CASES[name] for name in ("plain", "sinks", "groups-of-heads", "normed-and-convolved", "three-layers")} | {
    kind: config(checkpoint_dtype=kind, kv_heads=1) for kind in ("bfloat16", "int8")
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def stores(state: LMState) -> list[Any]:
    return [leaf for layer in state.layers for _, leaf in layer.leaves() if getattr(leaf, "in_pages", False)]


def same_turns(
    model: Any, plain: LMState, other: LMState, turns: int, before: Callable[[], object] = lambda: None
) -> tuple[LMState, LMState]:
    """Both states after calls and steps in which they gave equal numbers; after the fifth, forks and rows taken apart."""
    draw = random.Random(0)
    for turn in range(turns):
        before()
        at = plain.position.tolist()
        ids = torch.stack([IDS[b % 3, min(p, LENGTH - 1)] for b, p in enumerate(at)])
        active, out = torch.tensor([draw.random() < 0.8 for _ in at]), []
        for state in (plain, other):
            if turn % 4 == 3:
                y, state = model(ids[:, None], state, mask=active[:, None])
                out.append((y[active, 0], state))
            else:
                y, state = model.step(ids, state, active, inplace=turn % 2 == 0)
                out.append((y[active], state))
        (x, plain), (y, other) = out
        assert torch.equal(x, y)
        if turn == 4:
            order = [3, 0, 5, 3, 4, 2]
            plain, other = plain.select(order), other.fork().select(order)
    return plain, other


@every_kind
@torch.no_grad()
def test_calls_and_steps_of_ragged_rows(kind: str) -> None:
    """Rows of all ages, forks and rows taken apart: each head reads the pages that it chose, and no free page."""
    model, pools = make(KINDS[kind]), Pools()
    rows = [model(IDS[b % 3 : b % 3 + 1, :age])[1] for b, age in enumerate(AGES)]
    plain, paged = LMState.cat(rows), LMState.cat([row.paged(pools) for row in rows])
    assert paged.in_pages and not plain.in_pages
    plain, paged = same_turns(model, plain, paged, 9, lambda: poison(pools))
    assert paged.in_pages
    same_bits(plain, paged)
    same_bits(plain, paged.flat())


@every_kind
@torch.no_grad()
def test_pages_know_their_tokens_and_forks_share_them(kind: str) -> None:
    model, pools = make(KINDS[kind]), Pools()
    state = model(IDS[:1], model.init_state(1).paged(pools))[1]
    fork = model(IDS[:1, :9], state.fork())[1]
    for a, b in zip(stores(state), stores(fork), strict=True):
        block, sinks = KINDS[kind]["segment"], KINDS[kind]["sinks"]
        spans = b.spans[0].tolist()
        assert spans == [[sinks + n * block, sinks + (n + 1) * block] for n in range(len(spans))] and len(spans) > 5
        assert b.held[0].pages[: a.width].tolist() == a.held[0].pages.tolist()


@torch.no_grad()
def test_a_fork_in_a_batch_copies_no_blocks() -> None:
    model = make(config(d_model=32, head_dim=16, segment=16, router="subblock:16", window=4))
    found = {}
    for length in (400, 4000):
        batch = st.Batch(model, type("Tok", (st.ByteTokenizer,), {"vocab_size": model.cfg.vocab_size})(), runtime="eager")
        rows = batch._turns.rows
        ids = torch.randint(0, 11, (1, length), generator=torch.Generator().manual_seed(1))
        rows.arrange({0: model(ids)[1], 1: model(ids[:, :40])[1]}, 4)
        assert rows.state is not None and rows.state.in_pages
        whole = stores(rows.row(0))[0].nbytes
        with Copied() as copied:
            rows.arrange({3: rows.row(0)}, 4)
        found[length] = copied.bytes, whole
    assert found[4000][0] - found[400][0] < found[4000][1] / 8  # routing keys grow, and are copied: 1/32 of the blocks


@torch.no_grad()
def test_a_full_pool_leaves_the_state_as_it_was() -> None:
    model = make(config())
    each = stores(model.init_state(1).paged(Pools()))[0].pool.each
    pools = Pools(limit=8 * each)
    state, plain = model.init_state(1).paged(pools), model.init_state(1)
    held, full = [model(IDS[:1, :20])[1].paged(pools)], 0
    for t in range(LENGTH):
        before = {name: x.clone() for name, x in state.tensors().items()}
        try:
            y, state = model.step(IDS[:1, t], state, inplace=True)
        except PoolFull:
            full += 1
            assert all(x.equal(before[name]) for name, x in state.tensors().items())
            held.clear()
            y, state = model.step(IDS[:1, t], state, inplace=True)
            pools.limit.give(100, each)
        want, plain = model.step(IDS[:1, t], plain, inplace=True)
        assert torch.equal(y, want)
    assert full == 1


def test_gradients_leave_the_pool_and_a_budget_has_none() -> None:
    model = make(config())
    with torch.no_grad():
        state = model(IDS[:1, :17])[1]
    grads = []
    for start in (state, state.paged()):
        embed = model.embed.weight.detach().clone().requires_grad_(True)
        y, end = torch.func.functional_call(model, {"embed.weight": embed}, (IDS[:1, 17:36], start))
        grads.append((y.detach(), *torch.autograd.grad(y.sum(), embed)))
        assert not end.in_pages
    assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))
    bounded = make(config(max_bytes=4096))
    assert not bounded(IDS[:1])[1].paged().in_pages
