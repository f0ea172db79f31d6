"""Holders of pages. Their pages are given up when the last reference to them is gone, from any thread and without a lock."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np

Dropped = deque[np.ndarray | int]  # pages of rows, and numbers of runs, that are gone


class Run:
    """Pages reserved for rows that go on from the same page; given up when no row is left that does."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int, dropped: Dropped):
        self.number = number
        weakref.finalize(self, dropped.append, number).atexit = False


class Row:
    """The pages of one row int64 [n], in order; a holder of each of them as long as it exists.

    together   they follow one another in the pool
    """

    __slots__ = ("__weakref__", "pages", "run", "together")

    def __init__(self, pages: np.ndarray, run: Run | None, dropped: Dropped):
        self.pages, self.run = pages, run
        self.together = bool((np.diff(pages) == 1).all())
        if len(pages):
            weakref.finalize(self, dropped.append, pages).atexit = False

    @property
    def number(self) -> int:
        """Of the run; 0: none."""
        return 0 if self.run is None else self.run.number
