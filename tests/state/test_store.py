"""The growing store: appended in place where nobody can see it, copied where somebody could."""

from __future__ import annotations

import numpy as np
import torch

from siltstone.state.tree import Store


def entries(values: list[list[float]]) -> tuple[torch.Tensor, ...]:
    """[B, 1, n, 1] and [B, n]: two leaves that grow along different axes."""
    x = torch.tensor(values)
    return x[:, None, :, None].clone(), x.clone()


def empty(rows: int) -> Store:
    return Store.empty((torch.zeros(rows, 1, 1, 1), torch.zeros(rows, 1)), (2, 1))


def read(store: Store, row: int) -> list[float]:
    wide, flat = store.views()
    n = int(store.count[row])
    assert wide[row, 0, :n, 0].tolist() == flat[row, :n].tolist()
    return flat[row, :n].tolist()


@torch.no_grad()
def test_append_keeps_what_others_see() -> None:
    a = empty(1).append(entries([[1.0, 2.0]]), np.array([2]))
    b = a.append(entries([[3.0]]), np.array([1]))
    c = a.append(entries([[4.0, 5.0]]), np.array([2]))  # a fork of a: b has already written behind it
    assert read(a, 0) == [1, 2]
    assert read(b, 0) == [1, 2, 3]
    assert read(c, 0) == [1, 2, 4, 5]
    d = b.append(entries([[6.0]]), np.array([1]))
    assert read(d, 0) == [1, 2, 3, 6] and read(b, 0) == [1, 2, 3]


@torch.no_grad()
def test_append_in_place_is_amortised() -> None:
    store, moved, at = empty(1), 0, 0
    for i in range(64):
        store = store.append(entries([[float(i)]]), np.array([1]))
        moved += store.leaves[0].data_ptr() != at
        at = store.leaves[0].data_ptr()
    assert read(store, 0) == [float(i) for i in range(64)]
    assert moved <= 8


def test_rows_of_different_lengths_with_and_without_gradients() -> None:
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            first = tuple(x.requires_grad_(grad) for x in entries([[1.0, 2.0], [7.0, 0.0]]))
            store = empty(2).append(first, np.array([2, 1]))
            store = store.append(entries([[3.0, 0.0], [8.0, 9.0]]), np.array([1, 2]))
            store = store.append(entries([[0.0], [5.0]]), np.array([0, 1]))
            assert read(store, 0) == [1, 2, 3]
            assert read(store, 1) == [7, 8, 9, 5]
            assert store.leaves[0].requires_grad == grad


@torch.no_grad()
def test_select_and_cat() -> None:
    store = empty(2).append(entries([[1.0, 2.0], [7.0, 0.0]]), np.array([2, 1]))
    both = Store.cat([store.select(torch.tensor([1])), store])
    assert [read(both, r) for r in range(3)] == [[7], [1, 2], [7]]
    grown = both.append(entries([[3.0], [4.0], [5.0]]), np.array([1, 1, 1]))
    assert [read(grown, r) for r in range(3)] == [[7, 3], [1, 2, 4], [7, 5]]
    assert [read(store, r) for r in range(2)] == [[1, 2], [7]]


@torch.no_grad()
def test_bytes_count_live_entries() -> None:
    store = empty(2).append(entries([[1.0, 2.0], [7.0, 0.0]]), np.array([2, 1]))
    assert store.nbytes == 3 * (4 + 4)
