"""State is a value: trees of row-batched tensors with `select, cat, detach, to, fork`.

Every tensor leaf has rows (B) first. `Store` is the only leaf that grows: sealed states are appended and never changed,
so forks and snapshots share them.

Accumulated values are kept in float32 or wider in every model dtype; values that are only copied keep the model's dtype.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..core.given import row_numbers
from ..errors import OutOfMemory
from ..ops.transforms import at_work
from .claims import Claims
from .entries import Entries, Tensors

LEAST, SPARE = 64, 4  # entries that memory has room for at least, and times as many as are needed that it keeps
MANY = 1024  # entries from which on memory grows by less than it has
NO_MEMORY = re.compile("allocate memory|out of memory|calculation overflowed|bad_alloc")


@dataclass
class State:
    """Base of all states: a dataclass whose fields are tensors [B, ...], states, tuples of them, or None.

    narrow   fields in the model's dtype; all others are in float32 or wider, or checkpoints rounded to bfloat16 or int8
    fixed    fields whose dtype does not depend on the model's: counters
    stored   fields with another name in files, and that name: keeps files of earlier versions readable
    rings    fields that steps update in place, and `placed` too
    """

    narrow: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()
    stored: ClassVar[dict[str, str]] = {}
    rings: ClassVar[tuple[str, ...]] = ()

    def map(self, f: Callable[[Any], Any]) -> Self:
        """The same tree with `f` applied to every leaf (a tensor or `Entries`)."""
        return type(self)(**{f_.name: _map(getattr(self, f_.name), f) for f_ in dataclasses.fields(self)})

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Leaves with their dotted names, as in files, in a fixed order."""
        for f in dataclasses.fields(self):
            yield from _leaves(getattr(self, f.name), f"{prefix}{self.stored.get(f.name, f.name)}")

    def select(self, rows: Any) -> Self:
        """The given rows, in that order: row numbers, or one bool per row. Raises InputError for anything else."""
        rows = row_numbers(rows, self.rows)
        index = torch.from_numpy(rows)
        return self.map(lambda x: x.select(rows) if isinstance(x, Entries) else x.index_select(0, index.to(x.device)))

    @classmethod
    def cat(cls, states: Sequence[Self]) -> Self:
        """Rows of several states of the same layer, one after the other."""
        first = states[0]
        names = [f.name for f in dataclasses.fields(first)]
        return type(first)(**{n: _cat([getattr(x, n) for x in states]) for n in names})

    def placed(self, rows: np.ndarray, parts: Sequence[Self]) -> Self:
        """With the rows of `parts`, one after the other, in place of the rows int64 [n].

        Rings, and what grows, are written where they are: rows that stay are not copied. Nobody else may hold this state, and it
        is given up. Raises OutOfMemory; then the given rows may be half written.
        """

        def field(name: str) -> Any:
            return _placed(getattr(self, name), rows, [getattr(x, name) for x in parts], name in self.rings)

        return type(self)(**{f.name: field(f.name) for f in dataclasses.fields(self)})

    def detach(self) -> Self:
        """The same values, outside the autograd graph."""
        return self.map(lambda x: x.detach())

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """Moved to a device, and cast to the dtypes that a model of this dtype keeps; unchanged leaves are shared."""

        def field(name: str) -> Any:
            kind = None if name in self.fixed else dtype
            return _to(getattr(self, name), device, kind, name in self.narrow)

        return type(self)(**{f.name: field(f.name) for f in dataclasses.fields(self)})

    def fork(self) -> Self:
        """A copy that is independent of in-place updates of the original; sealed states are shared."""
        return self.map(lambda x: x if isinstance(x, Entries) else x.clone())

    def normal(self) -> Self:
        """The same values in tensors that allow in-place updates and gradients: inference-mode tensors are copied."""
        return self.map(lambda x: x.normal() if isinstance(x, Entries) else x.clone() if x.is_inference() else x)

    def flat(self) -> Self:
        """The same values without pools: pages are copied to plain tensors."""
        return self.map(lambda x: x.flat() if isinstance(x, Entries) else x)

    @property
    def rows(self) -> int:
        """B."""
        return next((x.rows if isinstance(x, Entries) else len(x) for _, x in self.leaves()), 0)

    @property
    def nbytes(self) -> int:
        """Live bytes."""
        return sum(x.nbytes for _, x in self.leaves())


def _to(x: Any, device: Any, dtype: torch.dtype | None, narrow: bool) -> Any:
    if isinstance(x, State):
        return x.to(device, dtype)
    if isinstance(x, tuple):
        return tuple(_to(y, device, dtype, narrow) for y in x)
    if isinstance(x, Entries):
        return x.to(device, dtype, narrow)
    return None if x is None else moved(x, device, dtype, narrow)


def moved(x: Tensor, device: Any, dtype: torch.dtype | None, narrow: bool) -> Tensor:
    """narrow: cast to the dtype itself; else to float32 or wider, except that bfloat16 checkpoints stay bfloat16."""
    if dtype is None or not x.is_floating_point() or not narrow and x.dtype == torch.bfloat16:
        return x.to(device=device)
    return x.to(device=device, dtype=dtype if narrow else torch.promote_types(dtype, torch.float32))


def _map(x: Any, f: Callable[[Any], Any]) -> Any:
    if isinstance(x, State):
        return x.map(f)
    if isinstance(x, tuple):
        return tuple(_map(y, f) for y in x)
    return None if x is None else f(x)


def _leaves(x: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(x, State):
        yield from x.leaves(name + ".")
    elif isinstance(x, tuple):
        for i, y in enumerate(x):
            yield from _leaves(y, f"{name}.{i}")
    elif x is not None:
        yield name, x


def _cat(xs: list[Any]) -> Any:
    first = xs[0]
    if len(xs) == 1 or first is None:
        return first
    if isinstance(first, State):
        return type(first).cat(xs)
    if isinstance(first, tuple):
        return tuple(_cat(list(ys)) for ys in zip(*xs, strict=True))
    if isinstance(first, Entries):
        return max(xs, key=lambda x: x.in_pages).cat(xs)
    return torch.cat(xs)


def _placed(x: Any, rows: np.ndarray, parts: list[Any], ring: bool) -> Any:
    if x is None:
        return None
    if isinstance(x, tuple):
        return tuple(_placed(y, rows, list(ys), ring) for y, *ys in zip(x, *parts, strict=True))
    if isinstance(x, State | Entries):
        return x.placed(rows, parts)
    index, new = torch.from_numpy(rows).to(x.device), torch.cat(parts)
    return x.index_copy_(0, index, new) if ring and not frozen(x) else x.index_copy(0, index, new)


class Store(Entries):
    """Entries in tensors of their own.

    leaves   tensors [B, ..., capacity, ...]; leaf i grows along `axes[i]`
    count    int64 [B], how many entries of each row belong to this holder
    tide     how many entries of each row are claimed by any holder; shared by all holders of the same memory

    Without gradients, `append` writes after the entries in place if no other holder has claimed that place (no other holder
    can see these entries), and moves to memory of twice the size if there is no room; with many entries, a quarter more.
    """

    def __init__(self, leaves: tuple[Tensor, ...], axes: tuple[int, ...], count: np.ndarray, tide: Claims | None = None):
        self.leaves, self.axes, self.count = leaves, axes, count
        self.tide = Claims(count.tobytes()) if tide is None else tide

    @property
    def device(self) -> torch.device:
        """See Entries."""
        return self.leaves[0].device

    @classmethod
    def empty(cls, leaves: tuple[Tensor, ...], axes: tuple[int, ...]) -> Store:
        """A store without entries; the leaves define shapes (any capacity), dtype and device."""
        none = tuple(x.narrow(a, 0, 0) for x, a in zip(leaves, axes, strict=True))
        return cls(none, axes, np.zeros(leaves[0].shape[0], np.int64))

    def views(self, width: int | None = None) -> tuple[Tensor, ...]:
        """See Entries; no copies."""
        n = self.width if width is None else width
        return tuple(x.narrow(a, 0, n) for x, a in zip(self.leaves, self.axes, strict=True))

    def parts(self, width: int, first: int) -> tuple[Tensors, Tensors]:
        """See Entries."""
        leaves = self.views(width)
        return leaves[:first], leaves[first:]

    @property
    def room(self) -> int:
        """Entries of a row that there is memory for."""
        return self.leaves[0].shape[self.axes[0]]

    def roomy(self, least: int = LEAST) -> Store:
        """The same entries in memory whose room is a power of two, `least` or more, with room for one more."""
        room = max(least, 1 << self.width.bit_length())
        if self.room >= room and not self.room & (self.room - 1):
            return self
        leaves = tuple(padded(x, a, room, self.width) for x, a in zip(self.leaves, self.axes, strict=True))
        return Store(leaves, self.axes, self.count)

    @property
    def nbytes(self) -> int:
        """See Entries."""
        total = 0
        for x, a in zip(self.leaves, self.axes, strict=True):
            each = x.element_size() * int(np.prod([n for i, n in enumerate(x.shape) if i not in (0, a)]))
            total += each * int(self.count.sum())
        return total

    def append(self, new: Tensors, added: np.ndarray, spans: np.ndarray | None = None) -> Store:
        """See Entries."""
        count = self.count + added
        if not added.any():
            return Store(self.leaves, self.axes, count, self.tide)
        pairs = list(zip(self.leaves, new, self.axes, strict=True))
        level = bool((self.count == self.count[0]).all() and (added == added[0]).all())
        if at_work() or torch.is_grad_enabled() and any(x.requires_grad or y.requires_grad for x, y, _ in pairs):
            return Store(tuple(self._joined(x, y, a, level, added) for x, y, a in pairs), self.axes, count)
        leaves, tide, top = self.leaves, self.tide, int(count.max())
        fits = top <= leaves[0].shape[self.axes[0]] and not any(frozen(x) for x in leaves)
        if not fits or not tide.claim(self.count.tobytes(), count.tobytes()):
            room = top if self.width == 0 else max(self.width + min(self.width, max(MANY, self.width // 4)), top)
            leaves = tuple(padded(x, a, room, self.width) for x, a in zip(leaves, self.axes, strict=True))
            tide = Claims(count.tobytes())
        for (_, y, a), x in zip(pairs, leaves, strict=True):
            self._write(x.data, y, a, level, added)  # no other holder sees this place: tensors saved by autograd stay valid
        return Store(leaves, self.axes, count, tide)

    def reserve(self, added: np.ndarray) -> Store:
        """See Entries."""
        count, top, leaves, tide = self.count + added, int(self.count.max(initial=0)) + 1, self.leaves, self.tide
        fits = top <= leaves[0].shape[self.axes[0]] and not any(frozen(x) for x in leaves)
        if not fits or added.any() and not tide.claim(self.count.tobytes(), count.tobytes()):
            leaves = tuple(padded(x, a, max(2 * self.width, top), self.width) for x, a in zip(leaves, self.axes, strict=True))
            tide = Claims(count.tobytes())
        return Store(leaves, self.axes, count, tide)

    def put(self, rows: Tensor, place: Tensor, new: tuple[Tensor, ...], where: Tensor | None, inplace: bool) -> Store:
        """See Entries."""
        leaves = []
        for x, y, axis in zip(self.leaves, new, self.axes, strict=True):
            moved = x.movedim(axis, 1)
            value = y.to(x.dtype)
            if where is not None:
                value = torch.where(where.view(-1, *(1,) * (y.dim() - 1)), value, moved[rows, place])
            if inplace:
                moved.index_put_((rows, place), value)
                leaves.append(x)
            else:
                leaves.append(moved.index_put((rows, place), value).movedim(1, axis))
        return self._with(tuple(leaves), inplace)

    def taken(self, places: Tensor, rows: Tensor) -> Tensors:
        """See Entries."""
        count, heads = self.leaves[0].shape[1:3]
        index = (rows.view(-1, 1, 1, 1) * count + places) * heads + torch.arange(heads, device=places.device)[:, None]
        return tuple(x.flatten(0, 2).index_select(0, index.flatten()) for x in self.leaves)

    def _with(self, leaves: tuple[Tensor, ...], inplace: bool) -> Store:
        return Store(leaves, self.axes, self.count, self.tide if inplace else None)

    def _write(self, x: Tensor, y: Tensor, axis: int, level: bool, added: np.ndarray) -> None:
        """Write the first `added[b]` entries of y into x, after row b's own."""
        if level:
            x.narrow(axis, int(self.count[0]), int(added[0])).copy_(y.narrow(axis, 0, int(added[0])))
            return
        for b in np.flatnonzero(added):
            x[b].narrow(axis - 1, int(self.count[b]), int(added[b])).copy_(y[b].narrow(axis - 1, 0, int(added[b])))

    def _joined(self, x: Tensor, y: Tensor, axis: int, level: bool, added: np.ndarray) -> Tensor:
        both = torch.cat([x.narrow(axis, 0, self.width), y.to(x.dtype)], axis)
        if level:
            return both.narrow(axis, 0, self.width + int(added[0]))
        slot = np.arange(int((self.count + added).max()))[None]
        index = np.where(slot < self.count[:, None], slot, self.width + slot - self.count[:, None])
        index = torch.from_numpy(np.clip(index, 0, both.shape[axis] - 1)).to(x.device)
        return torch.stack([row.index_select(axis - 1, i) for row, i in zip(both, index, strict=True)])

    def sized(self, count: np.ndarray) -> Store:
        """See Entries."""
        width = int(count.max(initial=0))
        leaves = tuple(padded(x, a, width, self.width) for x, a in zip(self.leaves, self.axes, strict=True))
        return Store(leaves, self.axes, count)

    def map(self, f: Callable[[Tensor], Tensor]) -> Store:
        """See Entries."""
        return Store(tuple(f(x) for x in self.leaves), self.axes, self.count)

    def select(self, rows: Any) -> Store:
        """See Entries; in newly allocated memory."""
        rows = row_numbers(rows, self.rows)
        index, width = torch.from_numpy(rows), int(self.count[rows].max(initial=0))
        leaves = tuple(
            x.narrow(a, 0, width).index_select(0, index.to(x.device)) for x, a in zip(self.leaves, self.axes, strict=True)
        )
        return Store(leaves, self.axes, self.count[rows])

    @staticmethod
    def cat(stores: Sequence[Any]) -> Store:
        """See Entries; all of them plain stores."""
        width = max(s.width for s in stores)
        axes = stores[0].axes
        leaves = tuple(torch.cat([padded(s.leaves[i], a, width, s.width) for s in stores]) for i, a in enumerate(axes))
        return Store(leaves, axes, np.concatenate([s.count for s in stores]))

    def placed(self, rows: np.ndarray, parts: Sequence[Entries]) -> Store:
        """See Entries. Memory grows to a power of two with room for one more; it shrinks if it is over `SPARE` times that."""
        count, stay = self.count.copy(), self.count.copy()
        count[rows], stay[rows] = np.concatenate([x.count for x in parts]), 0
        room = 1 << int(count.max(initial=0)).bit_length()
        leaves, used = self.leaves, int(stay.max(initial=0))
        own = room <= self.room <= SPARE * max(room, LEAST) and not any(frozen(x) for x in leaves)
        if not own:
            leaves = tuple(padded(x, a, room, used) for x, a in zip(leaves, self.axes, strict=True))
        before = self.count if own else stay
        row = iter(rows.tolist())
        for part in parts:
            views = part.views()
            for b, n in enumerate(part.count.tolist()):
                r = next(row)
                left = max(0, int(before[r]) - n)  # what was there before may be NaN
                for x, y, axis in zip(leaves, views, self.axes, strict=True):
                    x.data[r].narrow(axis - 1, 0, n).copy_(y[b].narrow(axis - 1, 0, n))
                    x.data[r].narrow(axis - 1, n, left).zero_()
        return Store(leaves, self.axes, count)

    def detach(self) -> Store:
        """See Entries."""
        return Store(tuple(x.detach() for x in self.leaves), self.axes, self.count, self.tide)

    def normal(self) -> Store:
        """See Entries."""
        if not any(x.is_inference() for x in self.leaves):
            return self
        return Store(tuple(x.clone() for x in self.leaves), self.axes, self.count)

    def to(self, device: Any = None, dtype: torch.dtype | None = None, narrow: bool = False) -> Store:
        """See Entries."""
        there = tuple(moved(x, device, dtype, narrow) for x in self.leaves)
        if all(x is y for x, y in zip(there, self.leaves, strict=True)):
            return Store(self.leaves, self.axes, self.count, self.tide)
        own = tuple(x.clone() if x is y else x for x, y in zip(there, self.leaves, strict=True))
        return Store(own, self.axes, self.count)

    def flat(self) -> Store:
        """See Entries: itself."""
        return self


def frozen(x: Tensor) -> bool:
    """Whether x cannot be updated in place: it was created in inference mode, which has ended."""
    return x.is_inference() and not torch.is_inference_mode_enabled()


def padded(x: Tensor, axis: int, room: int, used: int | None = None) -> Tensor:
    """The first `used` entries of x along an axis (default: all), in memory for `room` entries, padded with zeros.

    Raises OutOfMemory.
    """
    used = x.shape[axis] if used is None else used
    shape = list(x.shape)
    shape[axis] = room - used
    try:
        zeros = x.new_zeros(shape)
        return torch.cat([x.narrow(axis, 0, used), zeros], axis) if used else zeros
    except RuntimeError as error:
        if not NO_MEMORY.search(str(error)):
            raise
        size = x.element_size() * x.numel() // max(1, x.shape[axis]) * room
        raise OutOfMemory(
            f"there is no memory for {room:,} entries ({size:,} bytes) of a layer's state: end other sessions, "
            "keep fewer checkpoints (max_checkpoints, segments='logarithmic'), or round them (checkpoint_dtype)"
        ) from None
