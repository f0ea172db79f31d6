"""A store whose entries are pages of a pool: rows are lists of pages, shared by forks, snapshots and batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.given import row_numbers
from ..errors import InputError
from ..ops.pages import Pages
from ..ops.transforms import at_work
from .entries import Entries, Tensors
from .ledger import Limit
from .pages import Pool, signature
from .rows import Row
from .tree import Store, moved, padded


class PagedStore(Entries):
    """Entries [B, ..., n, ...] in a pool, for inference. A value, as `Store` is; see Entries.

    `select`, `cat` and copies move no entries. Pages that a row shares with others stay where they are when it goes on.
    With gradients, or inside transforms of torch.func, what grows is a plain `Store`.
    """

    in_pages: ClassVar[bool] = True

    def __init__(self, pool: Pool, held: Sequence[Row]):
        self.pool, self.held = pool, tuple(held)
        self.axes = tuple(a + 1 for a in pool.axes)
        self.count = np.array([len(row.pages) for row in self.held], np.int64)
        self._plain: dict[int, Store] = {}  # leaves that were laid out because a dense read needs them so

    @classmethod
    def of(cls, pool: Pool, store: Entries, spans: np.ndarray | None = None) -> PagedStore:
        """The entries of any store as pages of a pool; spans as in `append`. Raises PoolFull."""
        if isinstance(store, PagedStore) and store.pool is pool:
            return store
        none = [pool.of(store).empty() for _ in range(store.rows)]
        return cls(pool, pool.extend(none, store.count, store.views(), spans) if store.width else none)

    @property
    def device(self) -> torch.device:
        """See Entries."""
        return self.pool.device

    @property
    def nbytes(self) -> int:
        """See Entries: shared pages count once a row."""
        return self.pool.each * int(self.count.sum())

    @cached_property
    def table(self) -> np.ndarray:
        """int64 [B, width + 1], the page of each entry; 0 (a page of zeros) behind a row's last one."""
        out = np.zeros((self.rows, self.width + 1), np.int64)
        for b, row in enumerate(self.held):
            out[b, : len(row.pages)] = row.pages
        return out

    @cached_property
    def on_device(self) -> Tensor:
        """The table on the device."""
        with torch.inference_mode(False):  # it is kept after the call
            return torch.from_numpy(self.table).to(self.device)

    @property
    def spans(self) -> np.ndarray:
        """int64 [B, width, 2], the tokens [first, end) of each entry; -1 where it is not known."""
        return self.pool.spans[self.table[:, :-1]]

    def views(self, width: int | None = None) -> Tensors:
        """See Entries. Views of the pool for a single row whose pages follow one another, else copies, which are kept."""
        width = self.width if width is None else width
        return tuple(self._view(i, width) for i in range(len(self.axes)))

    def parts(self, width: int, first: int) -> tuple[Tensors | Pages, Tensors]:
        """See Entries."""
        rest = tuple(self._view(i, width) for i in range(first, len(self.axes)))
        if self._together(width):
            return tuple(self._view(i, width) for i in range(first)), rest
        pages = Pages(
            self.pool.leaves[:first],
            self.on_device[:, :width],
            self.table,
            lambda: tuple(self._view(i, width) for i in range(first)),
        )
        return pages, rest

    def append(self, new: Tensors, added: np.ndarray, spans: np.ndarray | None = None) -> Entries:
        """See Entries. Raises PoolFull; then nothing has changed."""
        if not added.any():
            return self
        if at_work() or torch.is_grad_enabled() and any(x.requires_grad for x in new):
            return self.flat().append(new, added)
        out = PagedStore(self.pool, self.pool.extend(self.held, added, new, spans))
        with torch.inference_mode(False), torch.no_grad():
            for i, plain in () if out._together(out.width) else self._plain.copy().items():
                out._plain[i] = plain.append((new[i],), added)
        return out

    def reserve(self, added: np.ndarray) -> PagedStore:
        """See Entries. Raises PoolFull; then nothing has changed."""
        return PagedStore(self.pool, self.pool.extend(self.held, added)) if added.any() else self

    def put(self, rows: Tensor, place: Tensor, new: Tensors, where: Tensor | None, inplace: bool) -> Entries:
        """See Entries; a plain store unless in place."""
        if not inplace:
            return self.flat().put(rows, place, new, where, inplace)
        self.pool.put(self.on_device[rows, place], new, where)
        self._plain.clear()
        return self

    def taken(self, places: Tensor, rows: Tensor) -> Tensors:
        """See Entries."""
        heads = self.pool.leaves[0].shape[1]
        index = self.on_device[rows.view(-1, 1, 1, 1), places] * heads + torch.arange(heads, device=places.device)[:, None]
        return tuple(x.flatten(0, 1).index_select(0, index.flatten()) for x in self.pool.leaves)

    def sized(self, count: np.ndarray) -> PagedStore:
        """See Entries."""
        return self.reserve(count - self.count)

    def map(self, f: Callable[[Tensor], Tensor]) -> Store:
        """See Entries; a plain store."""
        return self.flat().map(f)

    def select(self, rows: Any) -> PagedStore:
        """See Entries."""
        return PagedStore(self.pool, [self.held[i] for i in row_numbers(rows, self.rows)])

    @staticmethod
    def cat(stores: Sequence[Entries]) -> Entries:
        """See Entries: in the pool of the first that has one. A plain store if any carries gradients."""
        pool = next(s.pool for s in stores if isinstance(s, PagedStore))
        if any(x.requires_grad for s in stores if not s.in_pages for x in s.views(0)):
            return Store.cat([s.flat() for s in stores])
        return PagedStore(pool, [row for s in stores for row in PagedStore.of(pool, s).held])

    def detach(self) -> PagedStore:
        """See Entries."""
        return self

    def normal(self) -> PagedStore:
        """See Entries: a pool is no memory of the inference mode."""
        return self

    def to(self, device: Any = None, dtype: torch.dtype | None = None, narrow: bool = False) -> Entries:
        """See Entries: a plain store if anything changes."""
        same = all(moved(x, device, dtype, narrow) is x for x in self.views(0))
        return self if same else self.flat().to(device, dtype, narrow)

    @property
    def room(self) -> int:
        """See Entries; of a compiled step: see `pinned`."""
        return max(64, 1 << self.width.bit_length())

    @cached_property
    def pinned(self) -> tuple[Tensors, Tensor]:
        """The pool's leaves and the table [B, room], as they are now, for a compiled step. A pool that grows keeps them."""
        with torch.inference_mode(False):
            return self.pool.leaves, padded(self.on_device[:, :-1], 1, self.room)

    def roomy(self) -> Store:
        """See Entries; a copy, without the pool."""
        return self.flat().roomy()

    def flat(self) -> Store:
        """See Entries."""
        return Store(tuple(self._laid_out(i) for i in range(len(self.axes))), self.axes, self.count)

    def digests(self, row: int) -> list[str]:
        """The hash of each page of a row."""
        return [self.pool.digest(page) for page in self.held[row].pages.tolist()]

    def __copy__(self) -> PagedStore:
        """The same value."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedStore:
        """The same value."""
        return self

    def __reduce__(self) -> Any:
        """Written down, it is a plain store."""
        plain = self.flat()
        return Store, (plain.leaves, plain.axes, plain.count)

    def _together(self, width: int) -> bool:
        return len(self.held) == 1 and self.held[0].together and width <= len(self.held[0].pages)

    def _view(self, i: int, width: int) -> Tensor:
        """Leaf i with the first `width` entries."""
        leaf, axis = self.pool.leaves[i], self.pool.axes[i]
        if self._together(width):
            return leaf.narrow(axis, int(self.held[0].pages[0]) if width else 0, width).unsqueeze(0)
        if not width:
            return leaf.narrow(axis, 0, 0).unsqueeze(0).expand(self.rows, *(-1,) * leaf.dim())
        if i not in self._plain:
            self._plain[i] = Store((self._laid_out(i),), (self.axes[i],), self.count)
        found = self._plain[i].views(min(width, self.width))[0]
        return found if width <= self.width else padded(found, self.axes[i], width)

    def _laid_out(self, i: int) -> Tensor:
        """A copy of leaf i."""
        axis, index = self.pool.axes[i], self.on_device[:, :-1]
        with torch.inference_mode(False), torch.no_grad():
            found = self.pool.leaves[i].index_select(axis, index.flatten())
            return found.unflatten(axis, index.shape).movedim(axis, 0).contiguous()


class Pools:
    """A pool for each kind of layer (shapes, dtypes and device of its checkpoints), for any number of states.

    limit    the most bytes that all of them may allocate; None: no limit
    spill, share   as in `Pool`
    Raises InputError for a limit that is not a whole number of bytes.
    """

    def __init__(self, limit: int | None = None, spill: str | Path | None = None, share: bool = False):
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise InputError(f"limit={limit!r} must be a whole number of bytes, or None for no limit")
        self.limit, self.spill, self.share = Limit(limit), spill, share
        self._pools: dict[Any, Pool] = {}
        self._lock = threading.Lock()

    def of(self, like: Entries) -> Pool:
        """The pool for entries such as these."""
        kind = signature(like)
        with self._lock:
            if kind not in self._pools:
                self._pools[kind] = Pool(like, self.limit, self.spill, self.share)
            return self._pools[kind]

    def __iter__(self) -> Iterator[Pool]:
        return iter(list(self._pools.values()))
