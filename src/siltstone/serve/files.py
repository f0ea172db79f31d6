"""Files named by the SHA-256 of their content: heads and pages of sessions. Each is written once."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..io import atomic_file
from ..io.folder import make_folder


class Files:
    """The files of one folder. A file that is pinned is not removed: its row is about to be committed."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = make_folder(folder), suffix
        self._pins: Counter[str] = Counter()
        self._lock = threading.Lock()

    def path(self, digest: str) -> Path:
        """The file of a content."""
        return self._folder / f"{digest}{self._suffix}"

    def pin(self, digests: Iterable[str]) -> None:
        """Keep these, also if no row names them, until `unpin`."""
        with self._lock:
            self._pins.update(digests)

    def unpin(self, digests: Iterable[str]) -> None:
        """See `pin`."""
        with self._lock:
            self._pins -= Counter(digests)

    def write(self, digest: str, content: bytes) -> None:
        """Write a pinned file, flush it, rename it, and flush the folder. Raises StorageError."""
        with atomic_file(self.path(digest)) as file:
            file.write(content)

    def remove(self, digest: str) -> bool:
        """Remove a file unless it is pinned; whether it is gone."""
        with self._lock:
            if self._pins[digest]:
                return False
            with suppress(OSError):
                self.path(digest).unlink(missing_ok=True)
            return True

    def sweep(self, named: Iterable[str]) -> set[str]:
        """Remove all files but these; the names of those that are missing."""
        wanted = {f"{digest}{self._suffix}": digest for digest in named}
        there = {path.name: path for path in self._folder.iterdir()}
        for name in there.keys() - wanted.keys():
            with suppress(OSError):
                there[name].unlink()
        return {wanted[name] for name in wanted.keys() - there.keys()}


def digest_of(content: bytes) -> str:
    """The name of a content."""
    return hashlib.sha256(content).hexdigest()
