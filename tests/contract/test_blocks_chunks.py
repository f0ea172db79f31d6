"""Blocks in chunks: the numbers of plain tensors, bit for bit; what grows and what forks copies no whole chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.models.stream_state import LMState
from siltstone.state import chunked
from siltstone.state.chunked import ChunkedStore

from ..inference.test_batch_pages import Copied
from .models import same_bits
from .test_blocks import IDS, config, make
from .test_blocks_pages import AGES, KINDS, every_kind, same_turns


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "EACH", 3)


def stores(state: LMState) -> list[Any]:
    return [leaf for layer in state.layers for _, leaf in layer.leaves() if isinstance(leaf, ChunkedStore)]


@every_kind
@torch.no_grad()
def test_calls_and_steps_of_ragged_rows(kind: str) -> None:
    model = make(KINDS[kind])
    rows = [model(IDS[b % 3 : b % 3 + 1, :age])[1] for b, age in enumerate(AGES)]
    plain, other = LMState.cat(rows), LMState.cat([row.chunked() for row in rows])
    assert stores(other) and not stores(plain)
    plain, other = same_turns(model, plain, other, 12)
    assert stores(other) and max(store.width for store in stores(other)) > 6
    assert plain.nbytes == other.nbytes
    same_bits(plain, other)
    same_bits(plain, other.flat())


@torch.no_grad()
def test_forks_go_separate_ways() -> None:
    """Each of three futures is as if it were alone, and chunks that were whole before are the same memory in all."""
    model = make(config(segment=2))
    before = model(IDS[:1, :31], model.init_state(1).chunked())[1]
    futures = [IDS[i : i + 1, 31:] for i in range(3)]
    ends = [before.fork() for _ in futures]
    for t in range(futures[0].shape[1]):
        ends = [model(ids[:, t : t + 1], end)[1] for ids, end in zip(futures, ends, strict=True)]
    for ids, end in zip(futures, ends, strict=True):
        alone = model(IDS[:1, :31])[1]
        for t in range(ids.shape[1]):
            alone = model(ids[:, t : t + 1], alone)[1]
        same_bits(alone, end)
        for old, new in zip(stores(before), stores(end), strict=True):
            whole = old.width // 3
            assert whole and [id(x) for x in old.held[0][:whole]] == [id(x) for x in new.held[0][:whole]]


@torch.no_grad()
def test_growth_copies_no_more_in_a_longer_text() -> None:
    model = make(config(d_model=32, head_dim=16, segment=16, router="subblock:16", window=4))
    found = []
    for length in (400, 4000):
        state = model(torch.randint(0, 11, (1, length)), model.init_state(1).chunked())[1]
        with Copied() as copied:
            for store in stores(state):
                store.append(tuple(x[:, :1] for x in store.views(1)), store.count * 0 + 1)
        found.append(copied.bytes - sum(sum(x.nbytes for x in store.views()) for store in stores(state)))
    assert found[1] <= found[0] + 8192


def test_gradients_leave_the_chunks_and_a_budget_has_none() -> None:
    model = make(config())
    with torch.no_grad():
        state = model(IDS[:1, :17])[1]
    grads = []
    for start in (state, state.chunked()):
        embed = model.embed.weight.detach().clone().requires_grad_(True)
        y, end = torch.func.functional_call(model, {"embed.weight": embed}, (IDS[:1, 17:36], start))
        grads.append((y.detach(), *torch.autograd.grad(y.sum(), embed)))
        assert not stores(end)
    assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))
    assert not stores(make(config(max_bytes=4096))(IDS[:1])[1].chunked())


def test_sessions_have_chunks_and_files_have_none(tmp_path: Path) -> None:
    model = make(config(depth=2)).eval().requires_grad_(False)
    tok = type("Tok", (st.ByteTokenizer,), {"vocab_size": model.cfg.vocab_size})()
    s = st.Session(model, tok, "eager")
    s.append(IDS[0])
    with torch.no_grad():
        plain = model(IDS[:1])[1]
    assert stores(s._state) and not stores(plain)  # type: ignore[arg-type]
    s.save(tmp_path / "s.silt")
    again = st.Session.load(tmp_path / "s.silt", model, tok)
    assert stores(again._state)  # type: ignore[arg-type]
    same_bits(plain, again._state)
    for session in (s, again, again.fork()):
        session.append(IDS[1])
    with torch.no_grad():
        same_bits(model(IDS[1:2], plain)[1], again._state)
    assert torch.equal(s._last_logits(), again._last_logits())
