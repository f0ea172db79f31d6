"""Stores over pools: what plain stores hold, with pages that are shared, kept together, limited, found again and given up."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siltstone.errors import InputError, PoolFull, StorageError
from siltstone.state import PagedStore, Pool, Pools, Store
from siltstone.state.entries import Entries

from .paged import PAGE, entries, one, paged, plain, pool, read, where
from .poison import poison


def same(a: Entries, b: Entries) -> None:
    """The same entries; behind them no NaN."""
    assert a.count.tolist() == b.count.tolist() and a.nbytes == b.nbytes
    for x, y, axis in zip(a.views(), b.flat().views(), a.axes, strict=True):
        assert x.shape == y.shape
        for row in range(a.rows):
            n = int(a.count[row])
            assert torch.equal(x[row].narrow(axis - 1, 0, n), y[row].narrow(axis - 1, 0, n))
            assert x.isfinite().all()


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_random_scripts_against_plain_stores(seed: int) -> None:
    """Join, fork, append, select, cat, go flat and come back, drop: 60 turns; free pages hold NaN all the time."""
    draw, on = random.Random(seed), pool(share=seed % 3 == 0)
    held: list[tuple[Entries, Store]] = [(paged(on, 2), plain(2))]
    c = d = None
    for turn in range(60):
        poison(on)
        a, b = draw.choice(held)
        act = draw.choice(["append", "append", "append", "select", "cat", "drop", "flat", "fork", "read"])
        if act == "append" and a.rows:
            added = np.array([draw.choice([0, 0, 1, 1, 2, 7]) for _ in range(a.rows)])
            new = entries([[turn * 10 + r + i / 100 for i in range(7)] for r in range(a.rows)])
            at = a.count[:, None] + np.arange(7)
            spans = np.stack([at, at + 1], -1)
            held.append((a.append(new, added, spans), b.append(new, added)))
        elif act == "select":
            rows = [draw.randrange(a.rows) for _ in range(draw.randrange(1, 4))] if a.rows else []
            held.append((a.select(rows), b.select(rows)))
        elif act == "cat" and a.rows < 6:
            c, d = draw.choice(held)
            held.append((PagedStore.cat([a, c]), Store.cat([b, d])))
        elif act == "flat":
            held.append((PagedStore.of(on, a.flat()), b))
        elif act == "fork":
            held.append((copy.deepcopy(a), b))
        elif act == "drop":
            held.remove((a, b))
        held = held[-8:] or [(paged(on, 1), plain(1))]
        for x, y in held:
            same(x, y)
    live = {page for x, _ in held for row in x.held for page in row.pages.tolist()}  # type: ignore[attr-defined]
    del a, b, c, d, x, y
    assert on.used == len(live)
    held.clear()
    gc.collect()
    assert on.used == 0


@torch.no_grad()
def test_a_row_is_a_view_and_appending_copies_nothing() -> None:
    on = pool()
    store, at = one(paged(on), 0.0), []
    for i in range(1, 200):
        store = one(store, float(i))
        wide, flat = store.views()
        at.append((on.leaves[0].data_ptr(), wide.data_ptr()))
        assert wide.untyped_storage().data_ptr() == on.leaves[0].untyped_storage().data_ptr()
        assert flat.is_contiguous() and wide.stride()[1:] == on.leaves[0].stride()
    assert read(store) == [float(i) for i in range(200)]
    assert len(set(at)) <= 5  # the pool has grown four times
    assert len(on.free) <= 2 * 200 + 32


@torch.no_grad()
def test_rows_side_by_side_stay_together() -> None:
    """Eight sessions in turn: each moves to a longer run when its own is full, and its old pages are free again."""
    on = pool()
    stores = [paged(on) for _ in range(8)]
    for i in range(150):
        for b, store in enumerate(stores):
            stores[b] = one(store, float(i))
            assert stores[b].held[0].together
    assert [read(store) for store in stores] == [[float(i) for i in range(150)]] * 8
    assert on.used == 8 * 150


@torch.no_grad()
def test_select_cat_forks_and_copies_share_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    on = pool()
    a, b = one(paged(on), 1.0, 2.0), one(paged(on), 7.0)

    def never(*_: Any) -> None:
        raise AssertionError("entries were copied")

    with monkeypatch.context() as patched:
        patched.setattr(Pool, "_write", never)
        patched.setattr(PagedStore, "_laid_out", never)
        both = PagedStore.cat([a, b, plain(1)])
        assert isinstance(both, PagedStore)
        mixed = both.select([1, 0, 0, 2])
        kept = [copy.deepcopy(mixed), copy.copy(mixed), mixed.detach(), mixed.normal(), mixed.to("cpu", torch.float32)]
    assert on.used == 3
    assert [where(mixed, r) for r in range(4)] == [where(b), where(a), where(a), []]
    assert all(isinstance(x, PagedStore) and x.held == mixed.held for x in kept)
    grown = mixed.append(entries([[3.0]] * 4), np.ones(4, np.int64))
    assert [read(grown, r) for r in range(4)] == [[7, 3], [1, 2, 3], [1, 2, 3], [3]]
    assert on.used == 7  # the entries before are still shared
    assert [read(mixed, r) for r in range(4)] == [[7], [1, 2], [1, 2], []]


@torch.no_grad()
def test_a_fork_that_goes_on_alone_again_gets_its_place_back() -> None:
    on = pool()
    start = one(paged(on), 1.0, 2.0)
    for value in (3.0, 4.0, 5.0):
        tried = one(start, value)
        assert tried.held[0].together and read(tried) == [1, 2, value]
        del tried
    a, b = one(start, 6.0), one(start, 7.0)
    assert (a.held[0].together, b.held[0].together) == (True, False)
    assert read(a) == [1, 2, 6] and read(b) == [1, 2, 7] and read(start) == [1, 2]


@torch.no_grad()
def test_what_is_laid_out_once_is_appended_to(monkeypatch: pytest.MonkeyPatch) -> None:
    on, laid = pool(), []
    start = one(paged(on), 1.0)
    kept, fork = one(start, 2.0), one(start, 3.0)
    out = PagedStore._laid_out
    monkeypatch.setattr(PagedStore, "_laid_out", lambda self, i: (laid.append(i), out(self, i))[1])
    for i in range(20):
        fork = one(fork, float(i))
        assert read(fork) == [1, 3, *map(float, range(i + 1))]
        if i == 12:
            assert laid == [0, 1] and read(kept) == [1, 2] and not fork.held[0].together
            del start, kept  # from now on nobody shares its pages: when its run is full, it moves to one for all of them
    assert laid == [0, 1] and fork.held[0].together and not fork._plain and on.used == 22


@torch.no_grad()
def test_behind_a_rows_entries_are_zeros() -> None:
    on = pool()
    store = PagedStore.cat([one(paged(on), 1.0, 2.0, 3.0), one(paged(on), 4.0), plain(1)])
    poison(on)
    assert store.views(5)[1].tolist() == [[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [0] * 5]
    assert one(paged(on), 1.0).views(3)[1].tolist() == [[1, 0, 0]]
    assert store.views(0)[0].shape == (3, 2, 0, 3) and store.select([]).views()[1].shape == (0, 0)


@torch.no_grad()
def test_a_full_pool_changes_nothing() -> None:
    on = pool(pages=4)
    a, b = one(paged(on), 1.0, 2.0), one(paged(on), 3.0)
    both = PagedStore.cat([a, b])
    for store, added in ((both, [1, 1]), (both, [0, 2]), (a, [2])):
        new = entries([[8.0, 9.0]] * store.rows)
        with pytest.raises(PoolFull, match=rf"the pool is full: 2 pages of {PAGE} bytes are needed, and 1 are free within.*112"):
            store.append(new, np.array(added))
        assert on.used == 3 and [read(both, r) for r in range(2)] == [[1, 2], [3]]
    last = one(a, 5.0)
    with pytest.raises(PoolFull):
        one(last, 6.0)
    del b, both
    assert read(one(last, 6.0)) == [1, 2, 5, 6]
    assert issubclass(PoolFull, MemoryError)


@torch.no_grad()
def test_reserved_pages_are_given_up_before_a_pool_is_full() -> None:
    on = pool(pages=20)
    stores = [one(paged(on), float(b)) for b in range(10)]  # the first reserves 16 of 20 pages
    more = [one(store, 10.0) for store in stores]
    assert [read(x) for x in more] == [[float(b), 10.0] for b in range(10)] and on.used == 20
    with pytest.raises(PoolFull):
        one(more[0], 1.0)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, StorageError])
@torch.no_grad()
def test_memory_that_cannot_be_had_is_a_full_pool(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    on = pool(pages=1000)
    store = one(paged(on), *map(float, range(len(on.free))))
    full = one(store, *map(float, range(int(on.free.sum()))))
    before, memory = on.used, Pool._memory

    def small(self: Pool, size: int, like: Any) -> Any:
        if size > before + 1 + 2:
            raise error("no memory")
        return memory(self, size, like)

    monkeypatch.setattr(Pool, "_memory", small)
    with pytest.raises(PoolFull, match="3 pages") as caught:
        one(full, 1.0, 2.0, 3.0)
    assert isinstance(caught.value.__cause__, error) and on.used == before
    assert read(one(full, 1.0, 2.0))[-2:] == [1, 2]  # fewer than asked for, but enough


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, KeyboardInterrupt])
@torch.no_grad()
def test_an_append_that_fails_halfway_changes_nothing(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    on = pool()
    store = PagedStore.cat([one(paged(on), 1.0), one(paged(on), 2.0, 3.0)])
    write, calls = Pool._write, []

    def fails(self: Pool, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise error("halfway")
        write(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Pool, "_write", fails)
        with pytest.raises(error):
            store.append(entries([[5.0], [6.0]]), np.ones(2, np.int64))
    assert on.used == 3 and [read(store, r) for r in range(2)] == [[1], [2, 3]]
    assert [read(store.append(entries([[5.0], [6.0]]), np.ones(2, np.int64)), r) for r in range(2)] == [[1, 5], [2, 3, 6]]


@torch.no_grad()
def test_equal_pages_are_found_and_shared() -> None:
    on = pool(share=True)
    a = one(paged(on), 1.0, 2.0, 3.0, span=0)
    b = one(one(paged(on), 1.0, 2.0, span=0), 4.0, span=2)
    assert where(b)[:2] == where(a)[:2] and where(b)[2] != where(a)[2] and on.used == 4
    assert b.digests(0)[:2] == a.digests(0)[:2] and len({*a.digests(0), *b.digests(0)}) == 4
    shifted = one(paged(on), 1.0, span=5)
    assert where(shifted) != where(a)[:1] and shifted.digests(0) == a.digests(0)[:1]
    assert shifted.spans.tolist() == [[[5, 6]]] and b.spans.tolist() == [[[0, 1], [1, 2], [2, 3]]]
    c = one(paged(on), 1.0, 2.0, 3.0, span=0)
    assert where(c) == where(a) and c.held[0].together
    del a, b, c, shifted
    poison(on)
    assert read(one(paged(on), 1.0, span=0)) == [1]  # the page is free now, and is not found
    apart = pool()
    assert where(one(paged(apart), 1.0, span=0)) != where(one(paged(apart), 1.0, span=0))


@torch.no_grad()
def test_pages_mapped_from_files(tmp_path: Path) -> None:
    on = pool(spill=str(tmp_path))
    store = one(paged(on), *map(float, range(100)))
    more = PagedStore.cat([one(store, 100.0), one(store, 101.0)])
    assert read(more, 0)[-1] == 100 and read(more, 1)[-1] == 101 and read(more, 1)[:100] == [*map(float, range(100))]
    assert not [*tmp_path.iterdir()]
    with pytest.raises(StorageError, match="cannot be mapped in .*missing"):
        pool(spill=str(tmp_path / "missing"))


@torch.no_grad()
def test_pools_end_with_their_last_state() -> None:
    """Nothing refers to itself: memory is given back at once, not at the next collection."""
    gc.collect()
    gc.disable()
    try:
        pools = Pools()
        store = one(paged(pools.of(plain())), 1.0)
        both = PagedStore.cat([one(store, 2.0), one(store, 3.0)])
        both.views()
        on, leaf = weakref.ref(store.pool), weakref.ref(store.pool.leaves[0])
        del pools, store
        assert on() is both.pool
        del both
        assert on() is None and leaf() is None
    finally:
        gc.enable()


@torch.no_grad()
def test_places_that_are_reserved_and_put() -> None:
    on = pool()
    store = PagedStore.cat([one(paged(on), 1.0), one(paged(on), 2.0, 3.0)]).reserve(np.array([1, 0]))
    assert store.count.tolist() == [2, 2]
    rows, place = torch.arange(2), torch.tensor([1, 2])
    new = tuple(x.select(a, 0) for x, a in zip(entries([[5.0], [6.0]]), store.axes, strict=True))
    after = store.put(rows, place, new, torch.tensor([True, False]), True)
    assert after is store and [read(store, r) for r in range(2)] == [[1, 5], [2, 3]]
    apart = store.put(rows, torch.tensor([0, 0]), new, None, False)
    assert [read(apart, r) for r in range(2)] == [[5, 5], [6, 3]] and read(store, 0) == [1, 5]
    assert store.sized(np.array([4, 2])).count.tolist() == [4, 2]
    poison(on)
    assert PagedStore.cat([paged(on, 2), plain(1)]).views(2)[1].tolist() == [[0, 0]] * 3


@torch.no_grad()
def test_inference_mode_leaves_no_trace_in_a_pool() -> None:
    on = pool()
    with torch.inference_mode():
        store = one(paged(on), *map(float, range(40)))
        fork = one(store, 1.0), one(store, 2.0)
        views = fork[1].views()
    assert not any(x.is_inference() for x in (*on.leaves, *views, *fork[1].views(), fork[1].on_device))
    assert read(one(fork[1], 3.0))[-2:] == [2, 3]


def test_written_down_and_moved_it_is_a_plain_store() -> None:
    on = pool()
    with torch.no_grad():
        store = PagedStore.cat([one(paged(on), 1.0, 2.0), one(paged(on), 3.0)])
    for other in (pickle.loads(pickle.dumps(store)), store.flat(), store.to(dtype=torch.float64), store.map(lambda x: x + 0)):
        assert isinstance(other, Store) and [read(other, r) for r in range(2)] == [[1, 2], [3]]
    first = tuple(x.requires_grad_() for x in entries([[4.0], [5.0]]))
    grown = store.append(first, np.ones(2, np.int64))
    assert isinstance(grown, Store) and grown.leaves[0].requires_grad and read(grown, 1) == [3, 5]
    assert isinstance(PagedStore.cat([store, grown]), Store)


def test_a_pool_is_for_one_kind_of_page() -> None:
    on, other = pool(), Store.empty((torch.zeros(1, 2, 1, 4), torch.zeros(1, 1)), (2, 1))
    with pytest.raises(InputError, match=r"the pool has pages of .*\(2, 3\).* and the state has entries of .*\(2, 4\)"):
        PagedStore.of(on, other)
    pools = Pools(limit=3 * PAGE)
    assert pools.of(plain()) is pools.of(plain(5)) is not pools.of(other) and len([*pools]) == 2
    with torch.no_grad():
        kept = one(paged(pools.of(plain())), 1.0, 2.0, 3.0)
        with pytest.raises(PoolFull):  # the limit is for all of them
            PagedStore.of(pools.of(other), other.append((torch.zeros(1, 2, 1, 4), torch.zeros(1, 1)), np.array([1])))
    assert read(kept) == [1, 2, 3]
    for wrong in (-1, 2.5, True, "1"):
        with pytest.raises(InputError, match="limit=.* must be a whole number of bytes"):
            Pools(limit=wrong)  # type: ignore[arg-type]
