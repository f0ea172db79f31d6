"""The index of what the server keeps, in SQLite, and the files of sessions beside it.

A folder has `index.db` (write-ahead log, flushed at every commit) and `blobs/`, with session files named by the SHA-256 of their
content. A blob is written and flushed, renamed, its folder flushed, and only then the row that names it is committed. Files that
no row names are removed when the store is opened. Without a folder the index is in memory, and there are no blobs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from ..errors import StorageError
from ..inference.session import Session
from ..io import Claim
from ..io.folder import make_folder, sync_folder
from ..io.refusal import storage_errors
from .index import Index

_COLUMNS = "id, owner, item, length, digest, position, blob, bytes"
_AT_ONCE = 1000  # items or values of one statement


@dataclass(frozen=True)
class MarkRow:
    """A session that is kept, as the index knows it.

    item     what it is found by: a digest of the items of the conversation so far
    length   characters of the text that it has read; digest: of this text
    blob     the name of its file; None: it is in memory alone
    bytes    of its file, or in memory
    """

    id: str
    owner: str
    item: str
    length: int
    digest: str
    position: int
    blob: str | None
    bytes: int = 0


class Store(Index):
    """See the module. Every method may be called from any thread, and is complete on the disk when it returns.

    Raises StorageError for a folder that cannot be written; InUse if another process has it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._blobs: Path | None = None
        self._claim: Claim | None = None
        if folder is not None:
            self._blobs = make_folder(make_folder(folder) / "blobs")
            self._claim = Claim(folder)
        super().__init__(folder)
        self._sweep()

    @property
    def durable(self) -> bool:
        """Whether what it keeps survives the process."""
        return self._blobs is not None

    @property
    def disk(self) -> int:
        """Bytes of the files."""
        each = "SELECT max(bytes) AS most FROM marks WHERE blob IS NOT NULL GROUP BY blob"
        return self.do(f"SELECT coalesce(sum(most), 0) FROM ({each})")[0][0]

    def close(self) -> None:
        """Release the folder."""
        with self._lock:
            self._index.close()
        if self._claim is not None:
            self._claim.release()

    def marks(self, owner: str, items: Sequence[str]) -> list[MarkRow]:
        """The marks of an owner that are found by one of these items, longest first."""
        found: list[MarkRow] = []
        for at in range(0, len(items), _AT_ONCE):
            part = items[at : at + _AT_ONCE]
            ask = f"SELECT {_COLUMNS} FROM marks WHERE owner = ? AND item IN ({','.join('?' * len(part))})"
            found += [MarkRow(*row) for row in self.do(ask, (owner, *part))]
        return sorted(found, key=lambda mark: -mark.length)

    def old_marks(self, owner: str, item: str, newest: int) -> list[str]:
        """Names of the marks that are found by an item, without those that were added last."""
        ask = "SELECT id FROM marks WHERE owner = ? AND item = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?"
        return [row[0] for row in self.do(ask, (owner, item, newest))]

    def used(self, owner: str, item: str | None = None) -> int:
        """Bytes of the marks of an owner, or of those that are found by an item. A file counts once, whatever marks share it."""
        values, which = ((owner,), "") if item is None else ((owner, item), " AND item = ?")
        each = f"SELECT max(bytes) AS most FROM marks WHERE owner = ?{which} GROUP BY coalesce(blob, id)"
        return self.do(f"SELECT coalesce(sum(most), 0) FROM ({each})", values)[0][0]

    def named(self, item: str) -> list[str]:
        """Names of all marks that are found by an item."""
        return [row[0] for row in self.do("SELECT id FROM marks WHERE item = ?", (item,))]

    def stale(self, but: str, before: float, used: Sequence[str]) -> list[str]:
        """Names of marks that were not used since a time, without those that are found by an item. used: those used lately."""
        with self.together():
            for id in used:
                self.do("UPDATE marks SET used = ? WHERE id = ?", (self.clock(), id))
        return [row[0] for row in self.do("SELECT id FROM marks WHERE used < ? AND item != ?", (before, but))]

    def oldest(self, owner: str, but: str, most: int) -> list[str]:
        """Names of marks of an owner, those that were added first before others, without those that are found by an item."""
        ask = "SELECT id FROM marks WHERE owner = ? AND item != ? ORDER BY rowid LIMIT ?"
        return [row[0] for row in self.do(ask, (owner, but, most))]

    def mark(self, id: str, owner: str) -> MarkRow | None:
        """One mark of an owner."""
        rows = self.do(f"SELECT {_COLUMNS} FROM marks WHERE id = ? AND owner = ?", (id, owner))
        return MarkRow(*rows[0]) if rows else None

    def add(self, mark: MarkRow, spare: Path | None = None) -> None:
        """Keep a mark. spare: its file, from `write`, which gets its name now."""
        row = (*astuple(mark), self.clock())
        with self._lock:
            if spare is not None and mark.blob is not None and self._blobs is not None:
                with storage_errors(spare):
                    os.replace(spare, self.path(mark.blob))
                    sync_folder(self._blobs)
            self.do(f"INSERT INTO marks ({_COLUMNS}, used) VALUES (?,?,?,?,?,?,?,?,?)", row)

    def drop(self, id: str) -> None:
        """Forget a mark, and remove its blob if no other mark has it."""
        with self._lock:
            rows = self.do("DELETE FROM marks WHERE id = ? RETURNING blob", (id,))
            blob = rows[0][0] if rows else None
            if blob is not None and not self.do("SELECT 1 FROM marks WHERE blob = ? LIMIT 1", (blob,)):
                with suppress(OSError):
                    self.path(blob).unlink()

    def write(self, session: Session) -> tuple[Path, str] | None:
        """Write a session's file under a spare name, for `add`, and its digest. None without a folder."""
        if self._blobs is None:
            return None
        spare = self._blobs / f"{os.urandom(12).hex()}.new"
        try:
            session.save(spare)
            with storage_errors(spare), open(spare, "rb") as file:
                return spare, hashlib.file_digest(file, "sha256").hexdigest()
        except BaseException:
            with suppress(OSError):
                spare.unlink()
            raise

    def path(self, blob: str) -> Path:
        """The file of a blob."""
        if self._blobs is None:
            raise StorageError("this store has no folder, and therefore no files; give one with --store")
        return self._blobs / f"{blob}.silt"

    @property
    def counts(self) -> tuple[int, int]:
        """Marks, and those of them that have a file."""
        return self.do("SELECT count(*), count(blob) FROM marks", ())[0]

    def _sweep(self) -> None:
        """Forget marks that were in memory alone, or whose file is gone; remove files that no mark has."""
        self.do("DELETE FROM marks WHERE blob IS NULL", ())
        if self._blobs is None:
            return
        there = {path.name: path for path in self._blobs.iterdir()}
        named = {f"{row[0]}.silt" for row in self.do("SELECT DISTINCT blob FROM marks", ())}
        for name in named - there.keys():
            self.do("DELETE FROM marks WHERE blob = ?", (name.removesuffix(".silt"),))
        for name in there.keys() - named:
            with suppress(OSError):
                there[name].unlink()
