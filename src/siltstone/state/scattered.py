"""Stores whose entries are not in one tensor a leaf: what needs them together takes a copy, a plain `Store`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .entries import Entries, Tensors
from .tree import Store, moved


class Scattered(Entries):
    """Entries for inference that `select`, `cat` and copies share. A value, as `Store` is; see Entries.

    like   leaves [1, 0, ...] without entries: shapes, dtypes and device
    """

    in_pages: ClassVar[bool] = True

    like: Tensors

    @abstractmethod
    def flat(self) -> Store:
        """See Entries: a copy of all of them."""

    @abstractmethod
    def extended(self, new: Tensors, added: np.ndarray) -> Entries:
        """See `append`: some entries are added, and there are no gradients."""

    def append(self, new: Tensors, added: np.ndarray, spans: np.ndarray | None = None) -> Entries:
        """See Entries; a plain store with gradients. If it raises, nothing has changed."""
        if torch.is_grad_enabled() and any(x.requires_grad for x in new):
            return self.flat().append(new, added)
        return self.extended(new, added) if added.any() else self

    @property
    def device(self) -> torch.device:
        """See Entries."""
        return self.like[0].device

    def views(self, width: int | None = None) -> Tensors:
        """See Entries: a copy."""
        return tuple(x.expand(self.rows, *x.shape[1:]) for x in self.like) if width == 0 else self.flat().views(width)

    def parts(self, width: int, first: int) -> Any:
        """See Entries."""
        return self.flat().parts(width, first)

    def reserve(self, added: np.ndarray) -> Entries:
        """See Entries; a plain store if anything is added."""
        return self.flat().reserve(added) if added.any() else self

    def put(self, rows: Tensor, place: Tensor, new: Tensors, where: Tensor | None, inplace: bool) -> Entries:
        """See Entries; a plain store."""
        return self.flat().put(rows, place, new, where, inplace)

    def sized(self, count: np.ndarray) -> Entries:
        """See Entries; a plain store."""
        return self.flat().sized(count)

    def map(self, f: Callable[[Tensor], Tensor]) -> Store:
        """See Entries; a plain store."""
        return self.flat().map(f)

    def detach(self) -> Any:
        """See Entries: they have no gradients."""
        return self

    def to(self, device: Any = None, dtype: torch.dtype | None = None, narrow: bool = False) -> Entries:
        """See Entries: a plain store if anything changes."""
        same = all(moved(x, device, dtype, narrow) is x for x in self.like)
        return self if same else self.flat().to(device, dtype, narrow)

    @property
    def room(self) -> int:
        """See Entries."""
        return self.width

    def roomy(self) -> Store:
        """See Entries."""
        return self.flat().roomy()

    def __copy__(self) -> Any:
        """The same value."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The same value."""
        return self

    def __reduce__(self) -> Any:
        """Written down, it is a plain store."""
        plain = self.flat()
        return Store, (plain.leaves, plain.axes, plain.count)


def without_entries(store: Entries) -> Tensors:
    """Leaves [1, 0, ...] of a store."""
    return tuple(x[:1] if len(x) else x.new_empty(1, *x.shape[1:]) for x in store.views(0))
