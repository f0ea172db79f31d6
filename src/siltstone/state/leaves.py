"""Entries inside a compiled step: their tensors alone, with all the room there is; the host keeps the counts."""

from __future__ import annotations

from torch import Tensor

from ..ops.pages import Pages
from .entries import Tensors
from .paged import PagedStore
from .tree import Store


class Leaves(Store):
    """The leaves of a store."""

    def __init__(self, leaves: Tensors, axes: tuple[int, ...]):
        self.leaves, self.axes = leaves, axes

    def views(self, width: int | None = None) -> Tensors:
        """All entries."""
        return self.leaves

    def _with(self, leaves: Tensors, inplace: bool) -> Store:
        return Leaves(leaves, self.axes)


class PagedLeaves(PagedStore):
    """Pages: leaves [..., P, ...] and table [B, room]."""

    def __init__(self, leaves: Tensors, table: Tensor, axes: tuple[int, ...]):
        self.leaves, self.places, self.axes = leaves, table, axes

    @property
    def room(self) -> int:
        """See Entries."""
        return self.places.shape[1]

    def parts(self, width: int, first: int) -> tuple[Tensors | Pages, Tensors]:
        """See Entries. The leaves behind `first` are copied out of the pages."""
        table = self.places[:, :width]

        def taken(i: int) -> Tensor:
            axis = self.axes[i] - 1
            return self.leaves[i].index_select(axis, table.flatten()).unflatten(axis, table.shape).movedim(axis, 0)

        pages = Pages(self.leaves[:first], table, None, lambda: tuple(taken(i) for i in range(first)))
        return pages, tuple(taken(i) for i in range(first, len(self.axes)))
