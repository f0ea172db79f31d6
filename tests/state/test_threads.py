"""What threads share: forks that go on from one state at the same time each end with their own entries."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.schedule.segments import Cuts, Growing, Layout
from siltstone.state.claims import Claims
from siltstone.state.tree import Store
from tests.threads import at_once
from tests.torture.factor import FACTOR


def a_store(room: int = 8) -> Store:
    """One row, two entries, and room behind them."""
    with torch.no_grad():
        store = Store.empty((torch.zeros(1, room),), (1,)).append((torch.zeros(1, 2),), np.array([2]))
        return store.append((torch.zeros(1, 1),), np.array([1]))


def one(value: float) -> tuple[Tensor, ...]:
    return (torch.full((1, 1), value),)


@pytest.mark.parametrize("rows", [1, 2])
def test_two_appends_that_overlap_are_two_stores(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy waits until the other append has begun its own: both have looked at the memory before either has written."""
    begun = threading.Barrier(2)
    write = Store._write

    def slow(self: Store, *args: Any) -> None:
        begun.wait(10)
        write(self, *args)

    with torch.no_grad():
        store = Store.empty((torch.zeros(rows, 1),), (1,)).append((torch.zeros(rows, 3),), np.arange(3, 3 - rows, -1))
        store = store.append((torch.ones(rows, 1),), np.ones(rows, np.int64))
        assert store.leaves[0].shape[1] > store.width
    monkeypatch.setattr(Store, "_write", slow)

    def going_on(value: float) -> Callable[[], Store]:
        def run() -> Store:
            with torch.no_grad():
                return store.append((torch.full((rows, 1), value),), np.ones(rows, np.int64))

        return run

    a, b = at_once(going_on(5.0), going_on(7.0))
    for got, value in ((a, 5.0), (b, 7.0)):
        assert [float(row[n - 1]) for row, n in zip(got.leaves[0], got.count, strict=True)] == [value] * rows
    assert a.leaves[0].data_ptr() != b.leaves[0].data_ptr()
    assert store.leaves[0].data_ptr() in (a.leaves[0].data_ptr(), b.leaves[0].data_ptr())  # one of them needed no copy


def test_two_cuts_that_overlap_are_two_rows_of_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is claimed before anything is written: a claim that waits for the other one lets only one of them through."""
    growing = Growing(np.arange(3)).append(np.array([3]))
    claim, waiting = Claims.claim, threading.Barrier(2)

    def slow(self: Claims, seen: Any, after: Any) -> bool:
        waiting.wait(10)
        return claim(self, seen, after)

    monkeypatch.setattr(Claims, "claim", slow)
    a, b = at_once(lambda: growing.append(np.array([5])), lambda: growing.append(np.array([7])))
    assert (
        a.values.tolist() == [0, 1, 2, 3, 5] and b.values.tolist() == [0, 1, 2, 3, 7] and growing.values.tolist() == [0, 1, 2, 3]
    )


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, KeyboardInterrupt])
def test_an_append_that_fails_halfway_harms_nobody(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store()

    def fails(*_: Any) -> None:
        raise error("halfway")

    with torch.no_grad():
        with monkeypatch.context() as patched:
            patched.setattr(Store, "_write", fails)
            with pytest.raises(error):
                store.append(one(5.0), np.array([1]))
        again = [store.append(one(value), np.array([1])) for value in (6.0, 7.0)]
    assert [float(x.views()[0][0, -1]) for x in again] == [6.0, 7.0]
    assert store.views()[0].tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises((RuntimeError, ValueError)), torch.no_grad():
        store.append((torch.zeros(1, 3, 3),), np.array([1]))  # of another shape
    assert store.views()[0].tolist() == [[0.0, 0.0, 0.0]]


def test_copies_have_claims_of_their_own() -> None:
    store = a_store()
    twin = copy.deepcopy(store)
    assert twin.tide is not store.tide
    with torch.no_grad():
        mine, theirs = store.append(one(1.0), np.array([1])), twin.append(one(2.0), np.array([1]))
    assert float(mine.views()[0][0, -1]) == 1.0 and float(theirs.views()[0][0, -1]) == 2.0
    state = st.MemoryCaching(8, heads=2, window=2, segment=4, segments="content", router_dim=4).init_state(2)
    assert copy.deepcopy(state).meta() == state.meta()


def test_anchors_may_be_asked_for_while_cuts_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that holds the same cuts asks in the middle of an addition."""
    cuts, extend = Cuts([1, 4]), Layout.extend
    for full in (4, 8):
        cuts.anchors(Layout(0, 1, full, 0))

    def interrupted(self: Layout, anchors: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        with monkeypatch.context() as patched:
            patched.setattr(Layout, "extend", extend)
            at_once(lambda: cuts.anchors(Layout(0, 1, 16, 0)))
        return extend(self, anchors, tokens)

    monkeypatch.setattr(Layout, "extend", interrupted)
    assert cuts.add(np.array([9])).tokens.tolist() == [1, 4, 9]


MODELS = [
    dict(pattern="a"),
    dict(pattern="m", segments="constant"),
    dict(pattern="am", segments="content", cache="sparse", gate="softmax"),
    dict(pattern="m", segments="logarithmic"),
]


@pytest.mark.parametrize("keys", MODELS, ids=lambda keys: " ".join(map(str, keys.values())))
def test_forks_in_threads_read_what_they_read_alone(keys: dict[str, Any]) -> None:
    torch.manual_seed(0)
    lm = st.LM(st.LMConfig.from_dict(dict(vocab_size=11, d_model=8, depth=2, heads=1, window=2, segment=2, router_dim=4) | keys))
    ids = torch.randint(0, 11, (4, 8))
    cut = (ids == 3) if lm.cfg.content else None

    def reads(state: Any, row: int) -> Tensor:
        outs = []
        with torch.no_grad():
            for t in range(ids.shape[1]):
                flag = None if cut is None else cut[row : row + 1, t : t + 1]
                y, state = lm(ids[row : row + 1, t : t + 1], state, inplace=True, cut=flag)
                outs.append(y)
        return torch.cat(outs, 1)

    with torch.no_grad():
        _, start = lm(ids[:1], cut=None if cut is None else cut[:1])
        for _ in range(round(2 * FACTOR)):
            _, start = lm(ids[:1], start, cut=None if cut is None else cut[:1])
            alone = [reads(copy.deepcopy(start), row) for row in range(4)]
            forks = [start.fork() for _ in range(4)]
            found = at_once(*(partial(reads, fork, row) for row, fork in enumerate(forks)))
            assert all(torch.equal(x, y) for x, y in zip(found, alone, strict=True))


def test_many_threads_append_to_one_store() -> None:
    """Eight holders of one memory, sixty times: each reads back what it has written."""
    with torch.no_grad():
        for _ in range(round(60 * FACTOR)):
            store = Store.empty((torch.zeros(1, 1, 64),), (1,)).append((torch.zeros(1, 3, 64),), np.array([3]))
            store = store.append((torch.zeros(1, 1, 64),), np.array([1]))

            def going_on(value: float, store: Store = store) -> Callable[[], Tensor]:
                def run() -> Tensor:
                    with torch.no_grad():
                        return store.append((torch.full((1, 1, 64), value),), np.array([1])).views()[0][0, -1]

                return run

            found = at_once(*(going_on(float(i)) for i in range(8)))
            assert [x.unique().tolist() for x in found] == [[float(i)] for i in range(8)]
