"""A file of pages of equal size that one process writes and reads back, with a pool of pages in memory.

The file has no name: no other process can open it, and it is gone when its owner is, whatever ends the process. Pages are only
added. A checksum of each page stays in memory, so that a page that the disk changed or lost is an error and not another content.
Pages are read, and not mapped: a mapped page that is gone would end the process.
"""

from __future__ import annotations

import os
import secrets
import threading
import weakref
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import SpillFailed
from . import system
from .regular import reason

POOL = 64 << 20  # bytes of pages that stay in memory


class PageFile:
    """Pages of `size` bytes in `folder`; at most `pool` bytes of them are in memory. May be used from several threads.

    Raises SpillFailed if the folder cannot be written.
    """

    def __init__(self, folder: Path, size: int, pool: int = POOL):
        self.folder, self.size, self.count = folder, size, 0
        self._most, self._pool = max(1, pool // max(1, size)), OrderedDict[int, np.ndarray]()
        self._sums = array("I")  # CRC-32 of each page
        self._lock, self._owner = threading.Lock(), os.getpid()
        path = folder / f".pages.{secrets.token_hex(6)}.tmp"
        try:
            self._handle = system.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | system.NO_LINK)
            weakref.finalize(self, system.close, self._handle)
            system.unlink(path)
        except OSError as error:
            raise SpillFailed(
                f"no page file can be made in {folder}: {reason(error)}; give a folder on a disk that can be written"
            ) from error

    @property
    def resident(self) -> int:
        """Bytes of pages in memory."""
        return len(self._pool) * self.size

    @property
    def written(self) -> int:
        """Bytes of pages in the file."""
        return self.count * self.size

    def add(self, pages: np.ndarray) -> np.ndarray:
        """Write pages uint8 [n, size] -> their numbers int64 [n]. Raises SpillFailed; then no page was added."""
        with self._lock:
            if os.getpid() != self._owner:
                raise SpillFailed(
                    f"the page file in {self.folder} belongs to process {self._owner}, and this one was forked from it; "
                    "load the session from its file in this process"
                )
            data, done, start = np.ascontiguousarray(pages).reshape(-1).data, 0, self.count * self.size
            try:
                while done < len(data):
                    done += system.write_at(self._handle, data[done:], start + done)
            except OSError as error:
                raise SpillFailed(
                    f"{len(data):,} bytes of pages cannot be written in {self.folder}: {reason(error)}; the session is as it "
                    "was: free space there, or save the session and load it with another folder"
                ) from error
            self._sums.extend(zlib.crc32(page.data) for page in pages)
            self.count += len(pages)
            return np.arange(self.count - len(pages), self.count)

    def read(self, numbers: Sequence[int] | np.ndarray, keep: bool = True) -> np.ndarray:
        """Pages uint8 [n, size]; with `keep` they stay in the pool, the longest unused ones are dropped.

        Raises SpillFailed for a page that is gone or has another content than was written.
        """
        out = np.empty((len(numbers), self.size), np.uint8)
        with self._lock:
            for page, number in zip(out, np.asarray(numbers).tolist(), strict=True):
                known = self._pool.get(number)
                if known is not None:
                    page[:] = known
                    self._pool.move_to_end(number)
                    continue
                self._load(page, number)
                if keep:
                    self._pool[number] = page.copy() if len(self._pool) < self._most else self._reused(page)
        return out

    def _reused(self, page: np.ndarray) -> np.ndarray:
        """The page in the memory of the one that was unused for longest."""
        _, memory = self._pool.popitem(last=False)
        memory[:] = page
        return memory

    def _load(self, page: np.ndarray, number: int) -> None:
        try:
            done = system.read_at(self._handle, page.data, number * self.size)
        except OSError as error:
            raise self._lost(number, reason(error)) from error
        if done < self.size:
            raise self._lost(number, f"the file ends {self.size - done:,} bytes before the page does")
        if zlib.crc32(page.data) != self._sums[number]:
            raise self._lost(number, "its checksum is another one than when it was written")

    def _lost(self, number: int, why: str) -> SpillFailed:
        return SpillFailed(
            f"page {number:,} in {self.folder} cannot be read back: {why}; the session is as it was, and its text must be read "
            "again: load a saved session, or read the documents anew, with a folder on a sound disk"
        )
