"""A store whose entries are pages of a file: a page holds one head of one block."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.given import row_numbers
from ..core.machine import give_back_freed_memory
from ..errors import InputError
from ..io.page_file import POOL, PageFile
from .entries import Entries, Tensors
from .scattered import Scattered, without_entries
from .tree import Store


class Spill:
    """Page files in a folder for the blocks of a session, one for each shape, with at most `pool` bytes in memory each.

    Raises InputError for a pool that is not a positive whole number of bytes, SpillFailed if the folder cannot be written.
    """

    def __init__(self, folder: str | Path, pool: int = POOL):
        if not isinstance(pool, int) or isinstance(pool, bool) or pool < 1:
            raise InputError(f"pool={pool!r} must be a whole number of bytes of at least 1, for example {POOL}")
        self.folder, self.pool = Path(folder), pool
        self._files: dict[int, PageFile] = {}
        self._settled = 0
        self._lock = threading.Lock()
        PageFile(self.folder, 1)  # a folder that cannot be written is an error now

    def file(self, size: int) -> PageFile:
        """The file of pages of `size` bytes."""
        with self._lock:
            if size not in self._files:
                self._files[size] = PageFile(self.folder, size, self.pool)
            return self._files[size]

    @property
    def resident(self) -> int:
        """Bytes of pages in memory."""
        return sum(file.resident for file in list(self._files.values()))

    def settle(self) -> None:
        """Gives freed memory back to the system if the files have grown by the pool's bytes since it last did.

        Routing keys are copied as they grow, and the C library keeps what was freed: after 124,516 tokens of SmolLM2-135M 400 MB.
        """
        written = sum(file.written for file in list(self._files.values()))
        if written - self._settled > self.pool:
            self._settled = written
            give_back_freed_memory()


class SpilledStore(Scattered):
    """Entries [B, n, J, ...] of blocks in a page file, for inference. A value, as `Store` is; see Entries.

    like    leaves [1, 0, J, ...] without entries: shapes and dtypes
    table   int64 [n] for each row: the first of the J pages of each entry
    `select`, `cat` and copies of rows in one file move no entries. With gradients, what grows is a plain `Store`.
    """

    def __init__(self, file: PageFile, like: Tensors, table: Sequence[np.ndarray]):
        self.file, self.like, self.table = file, like, tuple(table)
        self.axes = (1,) * len(like)
        self.count = np.array([len(row) for row in self.table], np.int64)
        self._sizes = [math.prod(x.shape[3:]) * x.element_size() for x in like]

    @classmethod
    def of(cls, spill: Spill, store: Entries) -> SpilledStore:
        """The entries of a store in a page file. Raises InputError if it is not on the CPU, SpillFailed."""
        if store.device.type != "cpu":
            raise InputError(f"spill is for states on the CPU, and this one is on {store.device}; leave spill out")
        like = without_entries(store)
        size = sum(math.prod(x.shape[3:]) * x.element_size() for x in like)
        return cls(spill.file(size), like, ())._here(store)

    @property
    def heads(self) -> int:
        """J, the pages of an entry."""
        return self.like[0].shape[2]

    @property
    def nbytes(self) -> int:
        """See Entries: bytes in the file, those of shared entries once a row."""
        return int(self.count.sum()) * self.heads * self.file.size

    def extended(self, new: Tensors, added: np.ndarray) -> SpilledStore:
        """See `append`. Raises SpillFailed; then nothing has changed."""
        table = list(self.table)
        for b in np.flatnonzero(added):
            entries = [x[b, : int(added[b])].detach().to(y.dtype).contiguous() for x, y in zip(new, self.like, strict=True)]
            parts = [x.view(torch.uint8).reshape(len(x), self.heads, -1) for x in entries]
            pages = self.file.add(torch.cat(parts, 2).flatten(0, 1).numpy())
            table[b] = np.concatenate([table[b], pages[:: self.heads]])
        return SpilledStore(self.file, self.like, table)

    def taken(self, places: Tensor, rows: Tensor) -> Tensors:
        """Some heads of some entries: places [R, n, J, k] of the rows int64 [R] -> leaves [R * n * J * k, ...].

        Raises SpillFailed.
        """
        index = places.numpy()
        pages = np.zeros(index.shape, np.int64)
        for r, row in enumerate(rows.tolist()):
            held = self.table[row]
            pages[r] = held[np.minimum(index[r], len(held) - 1)] if len(held) else 0
        pages += np.arange(self.heads)[:, None]
        wanted, inverse = np.unique(pages, return_inverse=True)
        return self._leaves(self.file.read(wanted), torch.from_numpy(inverse.reshape(-1)))

    def _leaves(self, pages: np.ndarray, index: Tensor | None = None) -> Tensors:
        """Pages uint8 [p, size] -> leaves [p, ...], or those at int64 [q] -> [q, ...]."""
        found = torch.from_numpy(pages).split(self._sizes, 1)
        each = (x.contiguous().view(y.dtype).view(len(x), *y.shape[3:]) for x, y in zip(found, self.like, strict=True))
        return tuple(x if index is None else x.index_select(0, index) for x in each)

    def flat(self) -> Store:
        """See Entries: all of them in memory. Raises SpillFailed."""
        with torch.inference_mode(False):
            leaves = [x.new_zeros(len(self.count), self.width, *x.shape[2:]) for x in self.like]
            for b, row in enumerate(self.table):
                if len(row):
                    pages = (row[:, None] + np.arange(self.heads)).reshape(-1)
                    for x, y in zip(leaves, self._leaves(self.file.read(pages, keep=False)), strict=True):
                        x[b, : len(row)] = y.unflatten(0, (len(row), self.heads))
            return Store(tuple(leaves), self.axes, self.count)

    def select(self, rows: Any) -> SpilledStore:
        """See Entries."""
        return SpilledStore(self.file, self.like, [self.table[i] for i in row_numbers(rows, self.rows)])

    @staticmethod
    def cat(stores: Sequence[Entries]) -> Entries:
        """See Entries: in the file of the first that has one."""
        first = next(s for s in stores if isinstance(s, SpilledStore))
        return SpilledStore(first.file, first.like, [row for s in stores for row in first._here(s).table])

    def _here(self, entries: Entries) -> SpilledStore:
        """The same entries in this file."""
        if isinstance(entries, SpilledStore) and entries.file is self.file:
            return entries
        empty = SpilledStore(self.file, self.like, [np.zeros(0, np.int64)] * entries.rows)
        return empty.extended(entries.views(), entries.count)

    def normal(self) -> SpilledStore:
        """See Entries."""
        return self
