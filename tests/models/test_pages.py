"""Models over states in pages: spans, full pools, in-place decoding, sharing between sessions, the doctor and session files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.doctor.run import examine
from siltstone.errors import InputError, PoolFull
from siltstone.state import PagedStore, Pools

KEYS = dict(vocab_size=259, d_model=8, depth=2, heads=2, window=3, segment=4, router_dim=4, pattern="m", cache="gated")
IDS = torch.randint(0, 250, (1, 64), generator=torch.Generator().manual_seed(0))


def model(pools: Pools | None = None, **keys: Any) -> st.LM:
    """With pools: its states begin, and are loaded, in pages."""

    class InPages(st.LM):
        def init_state(self, batch: int, phase: Any = None) -> st.LMState:
            return super().init_state(batch, phase).paged(pools)

        def load_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> st.LMState:
            return super().load_state(tensors, meta).paged(pools)

    torch.manual_seed(0)
    made = (st.LM if pools is None else InPages)(st.LMConfig.from_dict(KEYS | keys))
    return made.eval().requires_grad_(False)


def stores(state: st.LMState) -> list[Any]:
    return [leaf for layer in state.layers for _, leaf in layer.leaves() if hasattr(leaf, "pool")]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("keys", [dict(), dict(sinks=2), dict(rate=2, compress="mean"), dict(segments="content")])
def test_pages_know_the_tokens_they_cover(keys: dict[str, Any], early: bool) -> None:
    """Sealed into pages, or turned into pages afterwards: segments follow one another without a gap."""
    lm, pools = model(**keys), Pools()
    cut = torch.isin(torch.arange(64), torch.tensor([5, 6, 20]))[None] if keys.get("segments") else None
    state = lm.init_state(1, phase=[1])
    _, state = lm(IDS, state.paged(pools) if early else state, cut=cut)
    _, state = lm.step(IDS[:, 0], state)
    state = state.paged(pools)
    (spans,) = {tuple(map(tuple, x.spans[0].tolist())) for x in stores(state)}
    sinks, each = keys.get("sinks", 0), keys.get("rate", 1)
    assert spans[0][0] == sinks and all(a[1] == b[0] for a, b in zip(spans[:-1], spans[1:], strict=True))
    assert spans[0][1] - spans[0][0] == 4 - each and {b - a for a, b in spans[1:]} <= ({4} if cut is None else {1, 2, 3, 4})
    if cut is not None:
        assert {6, 7, 21} <= {b for _, b in spans}


@pytest.mark.parametrize("way", ["forward", "step"])
@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_a_full_pool_leaves_the_state_as_it_was(way: str, layer: int) -> None:
    """Also in place, and if an earlier layer has sealed already: the same token can be taken again when there is room."""
    lm = model()

    def turn(t: int, state: st.LMState) -> tuple[torch.Tensor, st.LMState]:
        ids = IDS[:, t : t + 1]
        return lm(ids, state, inplace=True) if way == "forward" else lm.step(ids[:, 0], state, inplace=True)

    state, wide = lm.init_state(1), Pools()
    each = next(iter(stores(state.paged(wide)))).pool.each
    pools = Pools(limit=(8 + layer) * each)
    state, other = state.paged(pools), lm(IDS[:, :20], lm.init_state(1))[1]
    held = [other.paged(pools)]  # four pages a layer
    full = 0
    for t in range(40):
        before = {name: x.clone() for name, x in state.tensors().items()}
        try:
            y, state = turn(t, state)
        except PoolFull:
            full += 1
            assert all(torch.equal(x, before[name]) for name, x in state.tensors().items())
            held.clear()
            y, state = turn(t, state)
            pools.limit.give(100, each)
    assert full == 1
    want, _ = lm(IDS[:, :40])
    torch.testing.assert_close(y.flatten(), want[0, -1], rtol=1e-5, atol=1e-5)  # type: ignore[possibly-undefined]


def test_sessions_with_the_same_beginning_share_its_pages() -> None:
    lm, pools = model(), Pools(share=True)
    a = lm(IDS[:, :40], lm.init_state(1))[1].paged(pools)
    (on,) = {x.pool for x in stores(a)}
    alone = on.used
    b = lm(IDS[:, :40], lm.init_state(1))[1].paged(on)
    assert on.used == alone and [x.held[0].pages.tolist() for x in stores(a)] == [x.held[0].pages.tolist() for x in stores(b)]
    with pytest.raises(InputError, match="the pool has pages of"):
        model(heads=1)(IDS[:, :40])[1].paged(on)


def test_the_doctor_finds_nothing() -> None:
    pools = Pools()
    found = examine(model(pools), st.ByteTokenizer(), IDS[0].tolist())
    assert found.ok and sum(len(pool.free) for pool in pools) > 8


def test_sessions_in_pages_are_saved_and_loaded(tmp_path: Path) -> None:
    tok, texts = st.ByteTokenizer(), []
    for pools in (None, Pools()):
        lm = model(pools)
        session = st.Session(lm, tok)
        session.append("Silt settles in layers, and layers become stone. " * 3)
        mark, fork = session.snapshot(), session.fork()
        fork.append("One way.")
        session.append("Another way.")
        session.rollback(mark)
        session.save(path := tmp_path / f"{pools is None}.silt")
        back = st.Session.load(path, lm, tok)
        texts.append(["".join(x.generate(30, seed=3)) for x in (session, fork, back)])
    assert texts[0] == texts[1] and texts[0][0] == texts[0][2]
    assert (tmp_path / "True.silt").stat().st_size == (tmp_path / "False.silt").stat().st_size


def test_a_session_whose_pool_is_full_goes_on_when_there_is_room() -> None:
    pools = Pools(limit=20_000)
    session, other = (st.Session(model(pools), st.ByteTokenizer()) for _ in range(2))
    text, texts = "Silt settles in layers. ", []
    with pytest.raises(PoolFull):
        for _ in range(1000):
            other.append(text)
    for _ in range(100):
        try:
            session.append(text[len(texts) % 24])
        except PoolFull:
            at = session.position
            assert at == len(texts)
            del other
            session.append(text[at % 24])
        texts.append(text[session.position % 24])
    assert session.position == 100 and "other" not in locals()
    alone = st.Session(model(), st.ByteTokenizer())
    for i in range(100):
        alone.append(text[i % 24])
    assert session.logits is not None and alone.logits is not None and torch.equal(session.logits, alone.logits)


@pytest.mark.parametrize("cache", ["gated", "sparse", "residual", "soup"])
@torch.no_grad()
def test_a_single_row_is_read_where_it_is(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(cache=cache)
    state = lm.init_state(1).paged()
    monkeypatch.setattr(PagedStore, "_laid_out", None)
    for t in range(0, 48, 12):
        _, state = lm(IDS[:, t : t + 12], state)
        for i in range(6):
            ids = IDS[:, t + i : t + i + 1]
            _, state = lm(ids, state, inplace=True) if i % 2 else lm.step(ids[:, 0], state)


@torch.no_grad()
def test_a_sparse_read_of_ragged_rows_copies_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routing keys are laid out for all checkpoints, matrices never."""
    lm, pools, laid = model(cache="sparse", top_k=1), Pools(), set()
    out = PagedStore._laid_out
    monkeypatch.setattr(PagedStore, "_laid_out", lambda self, i: (laid.add(i), out(self, i))[1])
    state = st.LMState.cat([lm(IDS[:, :n], lm.init_state(1).paged(pools))[1] for n in (9, 30, 17)])
    for t in range(9):
        ids = IDS[0, [t, t + 20, t + 40]]
        _, state = lm(ids[:, None], state) if t % 4 == 3 else lm.step(ids, state)
    assert laid == {len(stores(state)[0].axes) - 1}


def test_layers_without_growing_banks_stay_as_they_are() -> None:
    for keys in (dict(segments="logarithmic"), dict(max_checkpoints=2), dict(pattern="a"), dict(pattern="w"), dict(cache="none")):
        state = model(**keys)(IDS)[1]
        assert not state.paged().in_pages
    mixed = model(pattern="ma")(IDS)[1].paged()
    assert mixed.in_pages and len(stores(mixed)) == 1 and not mixed.flat().in_pages
    layer = st.MemoryCaching(8, heads=2, window=2, segment=4, router_dim=4)
    x = torch.randn(1, 30, 8)
    with torch.no_grad():
        state = layer(x)[1]
        ends = [layer(x, s)[0] for s in (state, state.paged())]
    assert torch.equal(*ends) and state.paged().layers[0].bank.store.spans[0, -1].tolist() == [20, 24]
