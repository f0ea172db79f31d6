"""Which pages of a pool are used, and by how many holders: numbers on the host. The pool calls it under its lock.

A row's pages follow one another where possible: each row has a *run* of pages reserved behind its last one, which doubles with
the row. A page is free if nobody holds it; what is reserved is given up when nothing else is free. Page 0 is never free.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

AHEAD = 16  # pages that the first run of a row has


class Limit:
    """The most bytes that one or several pools may allocate; None: no limit."""

    def __init__(self, most: int | None = None):
        self.most, self._left, self._lock = most, math.inf if most is None else most, threading.Lock()

    def grant(self, pages: int, each: int) -> int:
        """Take the bytes of up to `pages` pages of `each` bytes -> how many pages were granted."""
        with self._lock:
            pages = pages if math.isinf(self._left) else min(pages, int(self._left // each))
            self._left -= pages * each
            return pages

    def give(self, pages: int, each: int) -> None:
        """Give the bytes of `pages` pages back."""
        with self._lock:
            self._left += pages * each


@dataclass(frozen=True)
class Want:
    """A row with these pages int64 [n], and run (0: none), that needs `need` more."""

    pages: np.ndarray
    run: int
    need: int

    @property
    def ahead(self) -> int:
        """Pages to reserve behind the last one, the needed ones included."""
        return max(AHEAD, len(self.pages) + self.need)

    @property
    def apart(self) -> bool:
        """Whether the pages do not follow one another."""
        return bool((np.diff(self.pages) != 1).any())

    @property
    def whole(self) -> int:
        """Pages of a run that the row moves to."""
        return len(self.pages) + self.ahead


@dataclass(frozen=True)
class Taken:
    """New pages [need], in this run; moved: new pages for the row's earlier ones, or None. They are not held yet."""

    new: np.ndarray
    run: int
    moved: np.ndarray | None = None

    @property
    def pages(self) -> np.ndarray:
        """All of them."""
        return self.new if self.moved is None else np.concatenate([self.moved, self.new])


class Ledger:
    """held int64 [P], holders of each page; run int64 [P], the run that a page is reserved for, 0: none."""

    def __init__(self) -> None:
        self.held, self.run, self._runs = np.ones(1, np.int64), np.zeros(1, np.int64), 0

    @property
    def size(self) -> int:
        """P."""
        return len(self.held)

    @property
    def free(self) -> np.ndarray:
        """bool [P], pages without a holder."""
        return self.held == 0

    def grow(self, size: int) -> None:
        """With free pages up to `size`."""
        more = np.zeros(size - self.size, np.int64)
        self.held, self.run = np.concatenate([self.held, more]), np.concatenate([self.run, more])

    def drop(self, pages: np.ndarray) -> None:
        """One holder less."""
        np.subtract.at(self.held, pages, 1)

    def end(self, run: int) -> None:
        """Nobody goes on in this run."""
        self.run[self.run == run] = 0

    def hold(self, pages: np.ndarray) -> None:
        """One holder more."""
        np.add.at(self.held, pages, 1)

    def behind(self, want: Want) -> Taken | None:
        """Pages that are reserved for the row, behind its last one; None: there are not enough."""
        return self._following(want, want.run, want.need) if want.run and len(want.pages) else None

    def at_end(self, want: Want) -> bool:
        """Whether more pages of the pool would follow the row's last one."""
        mine = self._mine(want, want.need)
        return len(mine) < want.need and bool(mine.all())

    def extended(self, want: Want) -> Taken | None:
        """Pages behind the row's last one, in a longer run; None: somebody else has them."""
        return self._following(want, self._next(), want.ahead)

    def movable(self, want: Want) -> bool:
        """Whether only the row holds its pages, as it was and as it will be."""
        return len(want.pages) > 0 and bool((self.held[want.pages] == 2).all())

    def fits(self, number: int) -> bool:
        """Whether so many pages that follow one another are neither held nor reserved."""
        return self._stretch(number, number) is not None

    def moved(self, want: Want) -> Taken | None:
        """A run elsewhere for all of the row; None: there is no place for one."""
        count, place, run = len(want.pages), self._stretch(want.whole, want.whole), self._next()
        if place is None:
            return None
        pages = self._reserved(*place, run)
        return Taken(pages[count : count + want.need], run, pages[:count])

    def elsewhere(self, want: Want) -> Taken:
        """A run for the new pages alone, or any free pages. There are enough of them."""
        place, run = self._stretch(want.need, want.ahead), self._next()
        if place is None:
            self.run[self.free] = 0
            place = self._stretch(want.need, want.ahead)
        pages = np.flatnonzero(self.free) if place is None else self._reserved(*place, run)
        return Taken(pages[: want.need], run)

    def _next(self) -> int:
        self._runs += 1
        return self._runs

    def _mine(self, want: Want, number: int) -> np.ndarray:
        """bool [up to number], which pages behind the row's last one are free, and reserved for it or for nobody."""
        first = int(want.pages[-1]) + 1
        near = slice(first, first + number)
        return self.free[near] & ((self.run[near] == 0) | (self.run[near] == want.run))

    def _following(self, want: Want, run: int, ahead: int) -> Taken | None:
        """Pages behind the last one; up to `ahead` of them are reserved for `run`."""
        mine = self._mine(want, ahead)
        number = len(mine) if mine.all() else int(mine.argmin())
        if number < want.need:
            return None
        return Taken(self._reserved(int(want.pages[-1]) + 1, number, run)[: want.need], run)

    def _reserved(self, first: int, number: int, run: int) -> np.ndarray:
        self.run[first : first + number] = run
        return np.arange(first, first + number)

    def _stretch(self, least: int, most: int) -> tuple[int, int] | None:
        """(first, number) of pages in a row that are neither held nor reserved: the first `most`, or the longest of `least`."""
        open_ = np.flatnonzero(self.free & (self.run == 0))
        if len(open_) < least:
            return None
        start = np.flatnonzero(np.diff(open_, prepend=-1) != 1)  # page 0 is not among them
        length = np.diff(start, append=len(open_))
        at = int(np.argmax(length >= most)) if (length >= most).any() else int(length.argmax())
        return None if length[at] < least else (int(open_[start[at]]), min(int(length[at]), most))
