"""Pools of pages. A page is one sealed state of one layer: an entry of all leaves of a store. Pages do not change while they are
held, so that rows, forks and snapshots share them.

Leaves keep the axes of a store without its rows, [..., P, ...]: pages that follow one another are a view with the shape of a
row's entries. Page 0 is zeros. Free pages have any content, NaN too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, PoolFull, StorageError
from ..io.mapped import mapped
from .contents import Contents, content_hash
from .entries import Entries, Tensors
from .ledger import Ledger, Limit, Taken, Want
from .rows import Dropped, Row, Run

NOTHING = np.zeros(0, np.int64)


class Pool:
    """Pages with the shapes, dtypes and device of a store's entries. May be used from several threads.

    limit    the most bytes for pages; may be shared with other pools
    spill    a folder: pages are in a memory-mapped file there, which has no name and ends with the pool
    share    a sealed page with the content and span of a page that is held is that page
    leaves   [..., P, ...], replaced when the pool grows
    spans    int64 [P, 2], the tokens [first, end) that each page covers, -1: unknown
    each     bytes of a page
    """

    def __init__(self, like: Entries, limit: Limit | None = None, spill: str | Path | None = None, share: bool = False):
        if spill is not None and like.device.type != "cpu":
            raise InputError(f"spill={str(spill)!r} is for states on the CPU, and this one is on {like.device}; leave spill out")
        self.axes, self.limit = tuple(a - 1 for a in like.axes), Limit() if limit is None else limit
        self.spill, self.share, self.signature = None if spill is None else Path(spill), share, signature(like)
        self._lock, self._ledger, self._contents = threading.Lock(), Ledger(), Contents()
        self._dropped: Dropped = deque()
        self.spans = np.full((1, 2), -1, np.int64)
        self.leaves = self._memory(1, tuple(x.select(0, 0) if len(x) else x.new_empty(x.shape[1:]) for x in like.views(0)))
        for x, axis in zip(self.leaves, self.axes, strict=True):
            x.narrow(axis, 0, 1).zero_()
        self.each = sum(x.nbytes for x in self.leaves)

    @property
    def device(self) -> torch.device:
        """Where the pages are."""
        return self.leaves[0].device

    @property
    def free(self) -> np.ndarray:
        """bool [P], pages without a holder."""
        with self._lock:
            self._settle()
            return self._ledger.free

    @property
    def used(self) -> int:
        """Pages with a holder, page 0 not counted."""
        return int((~self.free).sum()) - 1

    def of(self, like: Entries) -> Pool:
        """This pool. Raises InputError if entries have other shapes, another dtype or device than its pages."""
        if signature(like) != self.signature:
            raise InputError(
                f"the pool has pages of {self.signature}, and the state has entries of {signature(like)}; give st.state.Pools(), "
                "which makes a pool for each kind of layer"
            )
        return self

    def empty(self) -> Row:
        """A row without pages."""
        return Row(NOTHING, None, self._dropped)

    def extend(
        self, rows: Sequence[Row], added: np.ndarray, new: Tensors | None = None, spans: np.ndarray | None = None
    ) -> list[Row]:
        """Rows with `added[b]` more pages each, filled with the first entries of new [B, ..., n, ...] (None: not filled).

        spans: int64 [B, n, 2]. Raises PoolFull if there is no room; then nothing has changed.
        """
        names = self._names(new, added, spans)
        with self._lock:
            self._settle()
            held: list[np.ndarray] = []  # by each row, to be given up if anything fails
            out: list[Row] = []
            try:
                known = [self._known(b, int(n), names, spans) for b, n in enumerate(added)]
                for row, x in zip(rows, known, strict=True):
                    held.append(np.concatenate([row.pages, x[x > 0]]) if len(x) else NOTHING)
                    self._ledger.hold(held[-1])
                wants = [Want(row.pages, row.number, int((x < 0).sum())) for row, x in zip(rows, known, strict=True)]
                taken = self._take(wants, held)
                for b, got in enumerate(taken):
                    if got.moved is not None:
                        self._copy(rows[b].pages, got.moved)
                    which = np.flatnonzero(known[b] < 0)
                    known[b][which] = got.new
                    if new is not None:
                        self._write(got.new, tuple(x[b] for x in new), which)
                    self._describe(got.new, which, None if spans is None else spans[b], names[b])
                for b, (row, got) in enumerate(zip(rows, taken, strict=True)):
                    out.append(self._row(row, got, known[b]))
            except BaseException:
                for pages in held[len(out) :]:
                    self._ledger.drop(pages)
                raise
        return out

    def put(self, page: Tensor, new: Tensors, where: Tensor | None) -> None:
        """Entries new [B, ...] into pages [B] that are the caller's alone, where bool [B] says so (None: everywhere)."""
        with self._lock:
            for x, y, axis in zip(self.leaves, new, self.axes, strict=True):
                moved, value = x.data.movedim(axis, 0), y.detach().to(x.dtype)
                if where is not None:
                    value = torch.where(where.view(-1, *(1,) * (y.dim() - 1)), value, moved[page])
                moved.index_put_((page,), value)

    def digest(self, page: int) -> str:
        """The hash of a page's content, in hexadecimal. The caller holds the page."""
        return content_hash(tuple(x.select(a, page) for x, a in zip(self.leaves, self.axes, strict=True))).hex()

    def _settle(self) -> None:
        """Give up what rows and runs held that are gone."""
        while self._dropped:
            gone = self._dropped.popleft()
            if isinstance(gone, int):
                self._ledger.end(gone)
            else:
                self._ledger.drop(gone)

    def _row(self, row: Row, got: Taken, new: np.ndarray) -> Row:
        """The row with new pages, which are held for it, as are its earlier ones."""
        if not len(new):
            return row
        run = row.run if got.run == row.number else Run(got.run, self._dropped)
        made = Row(np.concatenate([row.pages if got.moved is None else got.moved, new]), run, self._dropped)
        if got.moved is not None:
            self._ledger.drop(row.pages)
        return made

    def _take(self, wants: list[Want], held: list[np.ndarray]) -> list[Taken]:
        """New pages for the rows that need some; held, and added to `held`."""
        taken: dict[int, Taken] = {}

        def hold(b: int, got: Taken) -> None:
            self._ledger.hold(got.pages)
            held[b], taken[b] = np.concatenate([held[b], got.pages]), got

        for b, want in enumerate(wants):
            if want.need and (got := self._ledger.behind(want)):
                hold(b, got)
        rest = [b for b, want in enumerate(wants) if want.need and b not in taken]
        left = sum(wants[b].need for b in rest)
        lacking, wish = max(0, left - int(self._ledger.free.sum())), sum(wants[b].ahead for b in rest)
        if lacking and (why := self._more(wish, lacking)):
            total, limit = sum(want.need for want in wants), self.limit.most
            raise PoolFull(
                f"the pool is full: {total} pages of {self.each:,} bytes are needed, and {total - lacking} are free within "
                f"{'the memory' if limit is None else f'the limit of {limit:,} bytes'}; let go of states and sessions that are "
                "not needed, or make a pool with a larger limit"
            ) from why
        for b in rest:
            hold(b, self._one(wants[b], left))
            left -= wants[b].need
        return [taken.get(b, Taken(NOTHING, want.run)) for b, want in enumerate(wants)]

    def _one(self, want: Want, left: int) -> Taken:
        """New pages for a row: behind its own, in a place to which all of it moves, or elsewhere. `left`: pages still needed."""
        ledger = self._ledger
        movable = ledger.movable(want)
        if len(want.pages) and not (movable and want.apart):
            if ledger.at_end(want):
                self._more(want.ahead)
            if got := ledger.extended(want):
                return got
        if movable:
            if not ledger.fits(want.whole):
                self._more(want.whole)
            if int(ledger.free.sum()) >= want.whole + left and (got := ledger.moved(want)):
                return got
        if not ledger.fits(want.ahead):
            self._more(want.ahead)
        return ledger.elsewhere(want)

    def _more(self, wish: int, least: int | None = None) -> Exception | None:
        """Grow to twice the size and by `wish` pages, or by `least` if that is all there is; otherwise: why not."""
        why: Exception = MemoryError("the limit is reached")
        for more in (max(self._ledger.size, wish), wish, least or wish):
            granted = self.limit.grant(more, self.each)
            try:
                if granted >= (least or wish):
                    self._grow(self._ledger.size + granted)
                    granted = 0
                    return None
            except (RuntimeError, MemoryError, StorageError) as error:  # no memory for so many, or no space on the disk
                why = error
            finally:
                self.limit.give(granted, self.each)
        return why

    def _grow(self, size: int) -> None:
        leaves, spans = self._memory(size, self.leaves), np.full((size, 2), -1, np.int64)
        for x, y, axis in zip(leaves, self.leaves, self.axes, strict=True):
            x.narrow(axis, 0, y.shape[axis]).copy_(y)
        spans[: len(self.spans)] = self.spans
        self.leaves, self.spans = leaves, spans
        self._ledger.grow(size)

    def _memory(self, size: int, like: Tensors) -> Tensors:
        """Leaves for `size` pages; `like` has leaves for another number of pages."""
        out = []
        with torch.inference_mode(False):
            for x, axis in zip(like, self.axes, strict=True):
                shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
                if self.spill is None:
                    out.append(torch.empty(shape, dtype=x.dtype, device=x.device))
                else:
                    out.append(mapped(shape, x.dtype, self.spill))
        return tuple(out)

    def _copy(self, source: np.ndarray, target: np.ndarray) -> None:
        """Write pages to other pages, in the same order."""
        self._write(target, self.leaves, source)
        self.spans[target] = self.spans[source]
        for old, page in zip(source.tolist(), target.tolist(), strict=True):
            self._contents.forget(page)
            self._contents.moved(old, page)

    def _write(self, pages: np.ndarray, entries: Tensors, which: np.ndarray) -> None:
        """Write some of the entries [..., n, ...] to pages: as many as follow one another at a time."""
        edges = np.flatnonzero((np.diff(pages) != 1) | (np.diff(which) != 1)) + 1
        for part in np.split(np.arange(len(pages)), edges) if len(pages) else ():
            for x, y, axis in zip(self.leaves, entries, self.axes, strict=True):
                value = y.detach().narrow(axis, int(which[part[0]]), len(part))
                x.data.narrow(axis, int(pages[part[0]]), len(part)).copy_(value)  # tensors saved by autograd stay valid

    def _describe(self, pages: np.ndarray, which: np.ndarray, spans: np.ndarray | None, names: list[bytes]) -> None:
        """Note the spans, and the names, of the entries `which` that are now in `pages`."""
        self.spans[pages] = -1 if spans is None else spans[which]
        for i, page in zip(which.tolist(), pages.tolist(), strict=True):
            self._contents.forget(page)
            if names:
                self._contents.put(page, names[i], self.spans[page])

    def _names(self, new: Tensors | None, added: np.ndarray, spans: np.ndarray | None) -> list[list[bytes]]:
        """Hashes of the new entries of each row; none unless pages are shared and spans are known."""
        if not self.share or new is None or spans is None:
            return [[] for _ in added]
        leaves = [(y.detach().to(x.dtype), a) for x, y, a in zip(self.leaves, new, self.axes, strict=True)]
        return [[content_hash(tuple(y[b].select(a, i) for y, a in leaves)) for i in range(n)] for b, n in enumerate(added)]

    def _known(self, b: int, number: int, names: list[list[bytes]], spans: np.ndarray | None) -> np.ndarray:
        """int64 [number], held pages with the content of row b's new entries; -1: none."""
        found = np.full(number, -1, np.int64)
        if spans is not None:
            for i, name in enumerate(names[b]):
                page = self._contents.page(name, spans[b, i])
                found[i] = page if page > 0 and self._ledger.held[page] else -1
        return found


def signature(like: Entries) -> tuple[tuple[object, ...], ...]:
    """Shape, axis, dtype and device of each leaf of a page."""
    leaves = zip(like.views(0), like.axes, strict=True)
    return tuple((tuple(n for i, n in enumerate(x.shape) if i not in (0, a)), a, x.dtype, str(x.device)) for x, a in leaves)
