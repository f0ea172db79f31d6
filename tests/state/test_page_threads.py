"""Threads that share a pool: rows that go on, forks, and references that are dropped at the same time."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import PoolFull
from siltstone.state import PagedStore, Pool, Pools
from siltstone.state.ledger import Ledger
from tests.threads import at_once
from tests.torture.factor import FACTOR

from .paged import one, paged, pool, read


def going_on(store: PagedStore, value: float) -> Callable[[], PagedStore]:
    def run() -> PagedStore:
        with torch.no_grad():
            return one(store, value)

    return run


def test_forks_that_go_on_at_once_have_pages_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have made their request before either has been given a page."""
    on, waiting, names = pool(), threading.Barrier(2), Pool._names
    with torch.no_grad():
        start = one(paged(on), 1.0, 2.0)

    def slow(self: Pool, *args: Any) -> Any:
        waiting.wait(10)
        return names(self, *args)

    monkeypatch.setattr(Pool, "_names", slow)
    a, b = at_once(going_on(start, 5.0), going_on(start, 7.0))
    assert read(a) == [1, 2, 5] and read(b) == [1, 2, 7] and on.used == 4


def test_a_row_that_is_dropped_while_pages_are_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last reference goes in the middle of a request, under the pool's lock, in the same thread."""
    on = pool()
    with torch.no_grad():
        kept = [one(paged(on), float(i)) for i in range(3)]
        behind = Ledger.behind

        def drops(self: Ledger, want: Any) -> Any:
            kept[1:] = []
            return behind(self, want)

        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "behind", drops)
            grown = one(kept[0], 9.0)
    assert read(grown) == [0, 9] and on.used == 2


def test_many_threads_fork_append_read_and_drop() -> None:
    on = pool(pages=400)
    with torch.no_grad():
        start = one(paged(on), 1.0, 2.0, 3.0)

    def work(seed: int) -> None:
        draw, held = random.Random(seed), [(start, [1.0, 2.0, 3.0])]
        with torch.no_grad():
            for turn in range(round(60 * FACTOR)):
                store, values = draw.choice(held)
                new = [seed * 1000.0 + turn] * draw.randrange(1, 3)
                held = [*held, (one(store, *new), [*values, *new])][-6:]
                for x, wanted in held:
                    assert read(x) == wanted
                both = PagedStore.cat([held[0][0], held[-1][0]])
                assert isinstance(both, PagedStore) and read(both, 1) == held[-1][1]

    at_once(*(partial(work, seed) for seed in range(4)))
    gc.collect()
    assert on.used == 3 and read(start) == [1, 2, 3]


def test_a_pool_that_is_full_for_one_thread_serves_the_others() -> None:
    on = pool(pages=30)
    with torch.no_grad():
        start = one(paged(on), 1.0)

    def fill(value: float) -> list[float]:
        store, wanted = start, [1.0]
        with torch.no_grad():
            try:
                while True:
                    store, wanted = one(store, value), [*wanted, value]
                    assert read(store) == wanted
            except PoolFull:
                assert read(store) == wanted
                return wanted

    found = at_once(*(partial(fill, float(i)) for i in range(2, 6)))
    gc.collect()
    assert all(x[0] == 1 and len({*x[1:]}) <= 1 for x in found) and on.used == 1


def test_forks_of_a_model_in_threads_read_what_they_read_alone() -> None:
    torch.manual_seed(0)
    keys = dict(vocab_size=11, d_model=8, depth=2, heads=1, window=2, segment=2, router_dim=4, cache="sparse", gate="softmax")
    lm, pools = st.LM(st.LMConfig.from_dict(keys)), Pools()
    ids = torch.randint(0, 11, (4, 12))

    def reads(state: Any, row: int) -> torch.Tensor:
        outs = []
        with torch.no_grad():
            for t in range(ids.shape[1]):
                y, state = lm(ids[row : row + 1, t : t + 1], state, inplace=True)
                outs.append(y)
        return torch.cat(outs, 1)

    with torch.no_grad():
        _, start = lm(ids[:1])
    alone = [reads(start.fork(), row) for row in range(4)]
    state = start.paged(pools)
    found = at_once(*(partial(reads, state.fork(), row) for row in range(4)))
    assert all(torch.equal(x, y) for x, y in zip(found, alone, strict=True))
