"""The index of what the server keeps, in SQLite, and the files of sessions beside it.

A folder has `index.db` (write-ahead log, flushed at every commit) and `blobs/`, with session files named by the SHA-256 of their
content. A blob is written and flushed, renamed, its folder flushed, and only then the row that names it is committed. Files that
no row names are removed when the store is opened. Without a folder the index is in memory, and there are no blobs.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..inference.session import Session
from ..io import Claim
from ..io.folder import make_folder, sync_folder
from ..io.refusal import storage_errors

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (id TEXT PRIMARY KEY, owner TEXT NOT NULL, kind TEXT NOT NULL, created REAL NOT NULL,
    body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS owned ON objects (owner, kind, created);
CREATE TABLE IF NOT EXISTS items (number INTEGER PRIMARY KEY, id TEXT NOT NULL, owner TEXT NOT NULL, of TEXT NOT NULL,
    body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS listed ON items (owner, of, number);
CREATE TABLE IF NOT EXISTS marks (id TEXT PRIMARY KEY, owner TEXT NOT NULL, item TEXT NOT NULL, length INTEGER NOT NULL,
    digest TEXT NOT NULL, position INTEGER NOT NULL, blob TEXT, used REAL NOT NULL);
CREATE INDEX IF NOT EXISTS found ON marks (owner, item);
"""
_COLUMNS = "id, owner, item, length, digest, position, blob"
_AT_ONCE = 1000  # items or values of one statement


@dataclass(frozen=True)
class MarkRow:
    """A session that is kept, as the index knows it.

    item     what it is found by: a digest of the items of the conversation so far
    length   characters of the text that it has read; digest: of this text
    blob     the name of its file; None: it is in memory alone
    """

    id: str
    owner: str
    item: str
    length: int
    digest: str
    position: int
    blob: str | None


class Store:
    """See the module. Every method may be called from any thread, and is complete on the disk when it returns.

    Raises StorageError for a folder that cannot be written; InUse if another process has it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._blobs: Path | None = None
        self._claim: Claim | None = None
        if folder is not None:
            self._blobs = make_folder(make_folder(folder) / "blobs")
            self._claim = Claim(folder)
        where = ":memory:" if folder is None else os.fspath(folder / "index.db")
        try:
            self._index = sqlite3.connect(where, isolation_level=None, check_same_thread=False, timeout=5)
            self._index.execute("PRAGMA journal_mode=WAL")
            self._index.execute("PRAGMA synchronous=FULL")
            self._index.executescript(_TABLES)
            self._sweep()
        except sqlite3.Error as error:
            raise StorageError(f"the store {folder} cannot be opened: {error}; give another folder with --store") from None

    @property
    def durable(self) -> bool:
        """Whether what it keeps survives the process."""
        return self._blobs is not None

    def close(self) -> None:
        """Release the folder."""
        with self._lock:
            self._index.close()
        if self._claim is not None:
            self._claim.release()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside is kept as a whole, or not at all if an error is raised. For one thread's calls, without blobs."""
        with self._lock:
            self._do("BEGIN", ())
            try:
                yield
                self._do("COMMIT", ())
            except BaseException:
                with suppress(StorageError):
                    self._do("ROLLBACK", ())
                raise

    def put(self, kind: str, owner: str, id: str, body: dict[str, Any]) -> None:
        """Keep an object, or replace it."""
        row = (id, owner, kind, time.time(), json.dumps(body, ensure_ascii=True))
        self._do("INSERT INTO objects VALUES (?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET body = excluded.body", row)

    def get(self, kind: str, owner: str, id: str) -> dict[str, Any] | None:
        """An object of this owner; None if there is none."""
        rows = self._do("SELECT body FROM objects WHERE id = ? AND owner = ? AND kind = ?", (id, owner, kind))
        return json.loads(rows[0][0]) if rows else None

    def listed(self, kind: str, owner: str, most: int) -> list[dict[str, Any]]:
        """The newest objects of an owner, newest first."""
        ask = "SELECT body FROM objects WHERE owner = ? AND kind = ? ORDER BY created DESC, rowid DESC LIMIT ?"
        return [json.loads(row[0]) for row in self._do(ask, (owner, kind, most))]

    def delete(self, kind: str, owner: str, id: str) -> bool:
        """Whether there was such an object."""
        return bool(self._do("DELETE FROM objects WHERE id = ? AND owner = ? AND kind = ? RETURNING id", (id, owner, kind)))

    def extend(self, owner: str, of: str, items: Sequence[dict[str, Any]]) -> None:
        """Add at most 1,000 items to an object, all or none."""
        if items:
            values = [x for item in items for x in (item["id"], owner, of, json.dumps(item))]
            self._do(f"INSERT INTO items (id, owner, of, body) VALUES {','.join(['(?,?,?,?)'] * len(items))}", values)

    def items(self, owner: str, of: str) -> list[dict[str, Any]]:
        """The items of an object, oldest first."""
        rows = self._do("SELECT body FROM items WHERE owner = ? AND of = ? ORDER BY number", (owner, of))
        return [json.loads(row[0]) for row in rows]

    def remove(self, owner: str, of: str, id: str) -> bool:
        """Whether the object had such an item, which is gone."""
        return bool(self._do("DELETE FROM items WHERE owner = ? AND of = ? AND id = ? RETURNING id", (owner, of, id)))

    def end(self, owner: str, id: str) -> None:
        """Forget a conversation and its items."""
        with self.together():
            self._do("DELETE FROM items WHERE owner = ? AND of = ?", (owner, id))
            self.delete("conversation", owner, id)

    def marks(self, owner: str, items: Sequence[str]) -> list[MarkRow]:
        """The marks of an owner that are found by one of these items, longest first."""
        found: list[MarkRow] = []
        for at in range(0, len(items), _AT_ONCE):
            part = items[at : at + _AT_ONCE]
            ask = f"SELECT {_COLUMNS} FROM marks WHERE owner = ? AND item IN ({','.join('?' * len(part))})"
            found += [MarkRow(*row) for row in self._do(ask, (owner, *part))]
        return sorted(found, key=lambda mark: -mark.length)

    def old_marks(self, owner: str, item: str, newest: int) -> list[str]:
        """Names of the marks that are found by an item, without those that were added last."""
        ask = "SELECT id FROM marks WHERE owner = ? AND item = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?"
        return [row[0] for row in self._do(ask, (owner, item, newest))]

    def mark(self, id: str, owner: str) -> MarkRow | None:
        """One mark of an owner."""
        rows = self._do(f"SELECT {_COLUMNS} FROM marks WHERE id = ? AND owner = ?", (id, owner))
        return MarkRow(*rows[0]) if rows else None

    def add(self, mark: MarkRow, spare: Path | None = None) -> None:
        """Keep a mark. spare: its file, from `write`, which gets its name now."""
        row = (mark.id, mark.owner, mark.item, mark.length, mark.digest, mark.position, mark.blob, time.time())
        with self._lock:
            if spare is not None and mark.blob is not None and self._blobs is not None:
                with storage_errors(spare):
                    os.replace(spare, self.path(mark.blob))
                    sync_folder(self._blobs)
            self._do("INSERT INTO marks VALUES (?,?,?,?,?,?,?,?)", row)

    def drop(self, id: str) -> None:
        """Forget a mark, and remove its blob if no other mark has it."""
        with self._lock:
            rows = self._do("DELETE FROM marks WHERE id = ? RETURNING blob", (id,))
            blob = rows[0][0] if rows else None
            if blob is not None and not self._do("SELECT 1 FROM marks WHERE blob = ? LIMIT 1", (blob,)):
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
        return self._do("SELECT count(*), count(blob) FROM marks", ())[0]

    def _do(self, statement: str, values: Sequence[Any]) -> list[Any]:
        try:
            with self._lock:
                return self._index.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the index of the store failed: {error}") from None

    def _sweep(self) -> None:
        """Forget marks that were in memory alone, or whose file is gone; remove files that no mark has."""
        self._index.execute("DELETE FROM marks WHERE blob IS NULL")
        if self._blobs is None:
            return
        there = {path.name: path for path in self._blobs.iterdir()}
        named = {f"{row[0]}.silt" for row in self._index.execute("SELECT DISTINCT blob FROM marks")}
        for name in named - there.keys():
            self._index.execute("DELETE FROM marks WHERE blob = ?", (name.removesuffix(".silt"),))
        for name in there.keys() - named:
            with suppress(OSError):
                there[name].unlink()
