"""Banks with a number of places, in tensors that grow with it: the logarithmic bank and the bank with a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from ..state.tree import padded
from .base import Bank

FEW = 4


class PlacesBank(Bank):
    """Subclasses have a field `factors`: packed matrices of each read factor [B, H, X, in, out]; other leaves are [B, X, ...]."""

    stored: ClassVar[dict[str, str]] = {"factors": "stages"}

    factors: tuple[Tensor, ...]

    @property
    def width(self) -> int:
        """X, the number of places."""
        return self.factors[0].shape[2]

    @property
    def places(self) -> np.ndarray:
        """See Bank."""
        return np.full(self.rows, self.width)

    def roomy(self, budget: int) -> Self:
        """See Bank. The number of places is a multiple of `FEW` up to four times that, then doubles."""
        room = FEW * max(1, -(-self.width // FEW))
        return self.grown(min(budget, room if room <= 4 * FEW else 1 << (room - 1).bit_length()))

    @property
    def room(self) -> int:
        """See Bank."""
        return self.width

    def open_axis(self, name: str) -> int | None:
        """See Bank."""
        return 2 if name.startswith("stages.") else 1

    def each(self, f: Callable[[Tensor, int], Tensor]) -> Self:
        """Replace every leaf that has places by f(leaf, its axis of places)."""
        names = iter([name for name, _ in self.leaves()])

        def one(x: Tensor) -> Tensor:
            axis = self.open_axis(next(names))
            return x if axis is None else f(x, axis)

        return self.map(one)

    def grown(self, width: int) -> Self:
        """With at least `width` places."""
        return self.each(lambda x, axis: padded(x, axis, width)) if width > self.width else self

    @classmethod
    def cat(cls, states: Sequence[Self]) -> Self:
        """Rows of several banks, with as many places as the largest."""
        width = max(s.width for s in states)
        return super().cat([s.grown(width) for s in states])

    def placed(self, rows: np.ndarray, parts: Sequence[Self]) -> Self:
        """See State; with as many places as the largest."""
        width = max(self.width, *(x.width for x in parts))
        return super(PlacesBank, self.grown(width)).placed(rows, [x.grown(width) for x in parts])

    def even(self, most: int) -> bool:
        """Whether all leaves have the same number of places, at most `most`."""
        axes = [(x, self.open_axis(name)) for name, x in self.leaves()]
        return self.width <= most and all(axis is None or x.shape[axis] == self.width for x, axis in axes)
