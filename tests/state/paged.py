"""Small paged stores for tests: two leaves that grow along different axes, [B, 2, n, 3] and [B, n]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from siltstone.state import PagedStore, Pool, Store
from siltstone.state.entries import Entries
from siltstone.state.ledger import Limit

PAGE = 4 * (2 * 3 + 1)  # bytes


def entries(values: Sequence[Sequence[float]]) -> tuple[Tensor, ...]:
    x = torch.tensor(values, dtype=torch.float32).reshape(len(values), -1)
    wide = x[:, None, :, None] + torch.arange(2.0).view(2, 1, 1) / 4 + torch.arange(3.0) / 16
    return wide.contiguous(), x.clone()


def plain(rows: int = 1) -> Store:
    return Store.empty((torch.zeros(rows, 2, 1, 3), torch.zeros(rows, 1)), (2, 1))


def pool(pages: int | None = None, **keys: bool | str) -> Pool:
    return Pool(plain(), None if pages is None else Limit(pages * PAGE), **keys)  # type: ignore[arg-type]


def paged(on: Pool, rows: int = 1) -> PagedStore:
    return PagedStore.of(on, plain(rows))


def one(store: PagedStore, *values: float, span: int | None = None) -> PagedStore:
    """With these values after its single row's own."""
    at = np.arange(len(values)) + (0 if span is None else span)
    spans = None if span is None else np.stack([at, at + 1], -1)[None]
    found = store.append(entries([values]), np.array([len(values)]), spans)
    assert isinstance(found, PagedStore)
    return found


def read(store: Entries, row: int = 0) -> list[float]:
    """A row's values; both leaves agree."""
    wide, flat = store.views()
    n = int(store.count[row])
    assert torch.equal(wide[row, :, :n], entries([flat[row, :n].tolist()])[0][0])
    return flat[row, :n].tolist()


def where(store: PagedStore, row: int = 0) -> list[int]:
    return store.held[row].pages.tolist()
