"""A store whose rows are chunks in memory: it grows without a copy of what it holds, and forks share whole chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.given import row_numbers
from .entries import Entries, Tensors
from .scattered import Scattered, without_entries
from .tree import Store

EACH = 128  # entries of a whole chunk

Row = tuple[Store, ...]


class ChunkedStore(Scattered):
    """Entries [B, n, J, ...] of blocks in memory.

    like    see Scattered
    held    the chunks of each row: stores of one row, all but the last with `EACH` entries
    A fork that grows copies the last chunk at most. With gradients, what grows is a plain `Store`.
    """

    def __init__(self, like: Tensors, held: Sequence[Row]):
        self.like, self.held = like, tuple(held)
        self.axes = (1,) * len(like)
        self.count = np.array([sum(chunk.width for chunk in row) for row in self.held], np.int64)

    @classmethod
    def of(cls, store: Entries) -> ChunkedStore:
        """The entries of any store; those of a plain one are not copied."""
        if isinstance(store, ChunkedStore):
            return store
        leaves = store.views()
        rows = ([x[b : b + 1, : int(n)] for x in leaves] for b, n in enumerate(store.count))
        return cls(without_entries(store), [tuple(_chunks(row)) for row in rows])

    @property
    def nbytes(self) -> int:
        """See Entries: shared chunks count once a row."""
        return sum(chunk.nbytes for row in self.held for chunk in row)

    def extended(self, new: Tensors, added: np.ndarray) -> ChunkedStore:
        """See Scattered."""
        rows = list(self.held)
        for b in np.flatnonzero(added):
            rows[b] = self._longer(rows[b], [x[b : b + 1, : int(added[b])].detach() for x in new])
        return ChunkedStore(self.like, rows)

    def _longer(self, row: Row, new: Sequence[Tensor]) -> Row:
        chunks, first, total = list(row), 0, new[0].shape[1]
        while first < total:
            if not chunks or chunks[-1].width >= EACH:
                chunks.append(Store.empty(self.like, self.axes))
            more = min(EACH - chunks[-1].width, total - first)
            chunks[-1] = chunks[-1].append(tuple(x[:, first : first + more] for x in new), np.array([more]))
            first += more
        return tuple(chunks)

    def taken(self, places: Tensor, rows: Tensor) -> Tensors:
        """See Entries."""
        heads = torch.arange(places.shape[2], device=places.device)[:, None].expand(places.shape[1:]).flatten()
        each = [self._one(self.held[row], places[r].flatten(), heads) for r, row in enumerate(rows.tolist())]
        return each[0] if len(each) == 1 else tuple(torch.cat(list(x)) for x in zip(*each, strict=True))

    def _one(self, row: Row, places: Tensor, heads: Tensor) -> Tensors:
        """Entries of one row, int64 [q] of these heads [q] -> leaves [q, ...]."""
        if not row:
            return tuple(x.new_zeros(len(places), *x.shape[3:]) for x in self.like)
        chunk = places // EACH
        if len(row) == 1 or len(places) and bool((chunk == chunk[0]).all()):
            return _heads(row[int(chunk[0]) if len(places) else 0], places % EACH, heads)
        out = tuple(x.new_empty(len(places), *x.shape[3:]) for x in self.like)
        order = chunk.argsort(stable=True)
        size = torch.bincount(chunk, minlength=len(row)).tolist()
        for one, index in zip(row, order.split(size), strict=True):
            if len(index):
                for x, y in zip(out, _heads(one, places[index] % EACH, heads[index]), strict=True):
                    x.index_copy_(0, index, y)
        return out

    def flat(self) -> Store:
        """See Entries."""
        if self.rows == 1 and self.held[0]:
            chunks = self.held[0]
            leaves = [chunk.views() for chunk in chunks]
            joined = leaves[0] if len(leaves) == 1 else tuple(torch.cat(x, 1) for x in zip(*leaves, strict=True))
            return Store(joined, self.axes, self.count)
        with torch.inference_mode(False):
            leaves = tuple(x.new_zeros(self.rows, self.width, *x.shape[2:]) for x in self.like)
        for b, row in enumerate(self.held):
            for i, chunk in enumerate(row):
                for x, y in zip(leaves, chunk.views(), strict=True):
                    x.data[b, i * EACH : i * EACH + chunk.width] = y[0]
        return Store(leaves, self.axes, self.count)

    def select(self, rows: Any) -> ChunkedStore:
        """See Entries."""
        return ChunkedStore(self.like, [self.held[i] for i in row_numbers(rows, self.rows)])

    @staticmethod
    def cat(stores: Sequence[Entries]) -> Entries:
        """See Entries."""
        first = next(s for s in stores if isinstance(s, ChunkedStore))
        return ChunkedStore(first.like, [row for s in stores for row in ChunkedStore.of(s).held])

    def normal(self) -> ChunkedStore:
        """See Entries."""
        return ChunkedStore(
            tuple(x.clone() if x.is_inference() else x for x in self.like),
            [tuple(chunk.normal() for chunk in row) for row in self.held],
        )


def _chunks(leaves: Sequence[Tensor]) -> Iterator[Store]:
    """Stores of one row, of `EACH` entries [1, n, ...]; no copies."""
    for first in range(0, leaves[0].shape[1], EACH):
        some = tuple(x[:, first : first + EACH] for x in leaves)
        yield Store(some, (1,) * len(some), np.array([some[0].shape[1]]))


def _heads(chunk: Store, places: Tensor, heads: Tensor) -> Tensors:
    """Entries of a chunk of one row, each of its own head: int64 [q] -> leaves [q, ...]."""
    index = places * chunk.leaves[0].shape[2] + heads
    return tuple(x.flatten(0, 2).index_select(0, index) for x in chunk.leaves)
