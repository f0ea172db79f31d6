"""Checkpoints in a pool: where the matrices of some rows are, without laying them out row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Pages:
    """Packed matrices [H, P, in, out] of each read factor; checkpoint n of row r is page table[r, n], and page 0 is zeros.

    table   int64 [R, N]; host: the same numbers on the host, for reads that go through checkpoints one by one
    whole   () -> the matrices laid out, [R, H, N, in, out]: a copy
    """

    leaves: tuple[Tensor, ...]
    table: Tensor
    host: np.ndarray | None
    whole: Callable[[], tuple[Tensor, ...]]

    @property
    def number(self) -> int:
        """N."""
        return self.table.shape[1]

    def picked(self, index: Tensor) -> tuple[Tensor, ...]:
        """The checkpoints index [R, k] of each row: [R, H, k, in, out]. Only these are copied."""
        page = self.table.gather(1, index).flatten()
        return tuple(x.index_select(1, page).unflatten(1, index.shape).transpose(0, 1) for x in self.leaves)

    def at(self, n: int) -> tuple[Tensor, ...]:
        """Views of checkpoint n % N of row n // N: [H, in, out]."""
        assert self.host is not None
        page = int(self.host[n // self.number, n % self.number])
        return tuple(x.select(1, page) for x in self.leaves)


def laid_out(held: tuple[Tensor, ...] | Pages) -> tuple[Tensor, ...]:
    """Matrices [R, H, N, in, out] of each read factor; copied if they are pages."""
    return held.whole() if isinstance(held, Pages) else held
