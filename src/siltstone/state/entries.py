"""The interface of what grows in a state: entries that are appended row by row and never change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..core.given import replaced
from ..ops.pages import Pages

Tensors = tuple[Tensor, ...]


class Entries(ABC):
    """Tensors that grow together along one axis, row by row; entries never change. A value: methods return a new one.

    axes     the axis [B, ..., n, ...] of each leaf along which it grows
    count    int64 [B], entries of each row
    in_pages    whether the entries are pages of a pool
    """

    axes: tuple[int, ...]
    count: np.ndarray
    in_pages: ClassVar[bool] = False

    @property
    def rows(self) -> int:
        """B."""
        return len(self.count)

    @property
    def width(self) -> int:
        """Entries of the longest row."""
        return int(self.count.max(initial=0))

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the entries are."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the entries."""

    @abstractmethod
    def views(self, width: int | None = None) -> Tensors:
        """The leaves with the first `width` entries [B, ..., width, ...] (default: the longest row's)."""

    @abstractmethod
    def parts(self, width: int, first: int) -> tuple[Tensors | Pages, Tensors]:
        """The same, with the `first` leaves apart from the others; as pages if to lay them out takes a copy."""

    @abstractmethod
    def append(self, new: Tensors, added: np.ndarray, spans: np.ndarray | None = None) -> Entries:
        """With the first `added[b]` of `new`'s entries [B, ..., n, ...] after row b's own.

        spans   int64 [B, n, 2], the tokens [first, end) that each new entry covers; pages keep them
        """

    @abstractmethod
    def reserve(self, added: np.ndarray) -> Entries:
        """With `added` entries more a row, which are this holder's to `put`, and room for one more in every row."""

    @abstractmethod
    def put(self, rows: Tensor, place: Tensor, new: Tensors, where: Tensor | None, inplace: bool) -> Entries:
        """With entries new [B, ...] at place [B] of the rows, where bool [B] says so (None: everywhere)."""

    @abstractmethod
    def taken(self, places: Tensor, rows: Tensor) -> Tensors:
        """Entries [B, n, J, ...] of the rows int64 [R], each of the J heads at places of its own: places int64 [R, m, J, k] ->
        leaves [R * m * J * k, ...]. Only these are copied."""

    @abstractmethod
    def sized(self, count: np.ndarray) -> Entries:
        """With `count` entries per row, no fewer than before; the content of new entries is undefined."""

    @abstractmethod
    def map(self, f: Callable[[Tensor], Tensor]) -> Entries:
        """The same entries with `f` applied to each leaf, in newly allocated memory."""

    @abstractmethod
    def select(self, rows: Any) -> Self:
        """The given rows, as in `State.select`."""

    @staticmethod
    @abstractmethod
    def cat(stores: Sequence[Entries]) -> Entries:
        """Rows of several."""

    def placed(self, rows: np.ndarray, parts: Sequence[Entries]) -> Entries:
        """With the rows of `parts`, one after the other, in these rows. See `State.placed`."""
        return self.cat([self, *parts]).select(replaced(self.rows, rows))

    @abstractmethod
    def detach(self) -> Self:
        """The same entries, outside the autograd graph."""

    @abstractmethod
    def normal(self) -> Self:
        """See `State.normal`."""

    @abstractmethod
    def to(self, device: Any = None, dtype: torch.dtype | None = None, narrow: bool = False) -> Entries:
        """Moved or cast, see `State.narrow`; shares all memory if nothing changes, else none."""

    @property
    @abstractmethod
    def room(self) -> int:
        """Entries of a row that there is memory for."""

    @abstractmethod
    def roomy(self) -> Entries:
        """The same entries in plain tensors of one of few sizes, with room for one more: what a compiled step takes."""

    @abstractmethod
    def flat(self) -> Entries:
        """The same entries in plain tensors [B, ..., n, ...] of their own, without a pool."""
