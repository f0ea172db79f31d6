"""The index of what the server keeps, in SQLite: objects with their times to live, and items of conversations."""

from __future__ import annotations

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
from .problem import expired

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
CREATE INDEX IF NOT EXISTS held ON marks (blob);
CREATE TABLE IF NOT EXISTS pages (digest TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS holds (blob TEXT NOT NULL, page TEXT NOT NULL, PRIMARY KEY (blob, page)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS holding ON holds (page);
CREATE TABLE IF NOT EXISTS texts (digest TEXT PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS said (of TEXT NOT NULL, first INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (of, first));
CREATE INDEX IF NOT EXISTS spoken ON said (digest);
"""
_NEWER = (
    ("objects", "ttl", "REAL"),
    ("objects", "expires", "REAL"),
    ("marks", "bytes", "INTEGER NOT NULL DEFAULT 0"),
    ("marks", "head", "INTEGER NOT NULL DEFAULT 0"),
)  # columns that earlier versions lack
_LAST = "CREATE INDEX IF NOT EXISTS ends ON objects (expires) WHERE expires IS NOT NULL"
GRAVE = 7 * 86400.0  # seconds for which an expired object is known to have existed
_EMPTY = "null"


@dataclass(frozen=True)
class Ended:
    """An object whose time to live has passed."""

    kind: str
    owner: str
    id: str
    body: dict[str, Any]


class Index:
    """Every method may be called from any thread, and is complete on the disk when it returns.

    clock    seconds since 1970, for times to live
    Raises StorageError if the index cannot be read or written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock, self._deep = threading.RLock(), 0
        self.clock = time.time
        where = ":memory:" if folder is None else os.fspath(folder / "index.db")
        try:
            self._index = sqlite3.connect(where, isolation_level=None, check_same_thread=False, timeout=5)
            self._index.execute("PRAGMA journal_mode=WAL")
            self._index.execute("PRAGMA synchronous=FULL")
            self._index.executescript(_TABLES)
            for table, column, kind in _NEWER:
                if column not in [row[1] for row in self._index.execute(f"PRAGMA table_info({table})")]:
                    self._index.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
            self._index.execute(_LAST)
        except sqlite3.Error as error:
            raise StorageError(f"the store {folder} cannot be opened: {error}; give another folder with --store") from None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside is kept as a whole, or not at all if an error is raised. For the calls of one thread."""
        with self._lock:
            if not self._deep:
                self.do("BEGIN IMMEDIATE", ())
            self._deep += 1
            try:
                yield
                if self._deep == 1:
                    self.do("COMMIT", ())
            except BaseException:
                if self._deep == 1:
                    with suppress(StorageError):
                        self.do("ROLLBACK", ())
                raise
            finally:
                self._deep -= 1

    def put(self, kind: str, owner: str, id: str, body: dict[str, Any], ttl: float | None = None) -> None:
        """Keep an object, or replace it. ttl: seconds from now on after which it expires; None: never."""
        now = self.clock()
        row = (id, owner, kind, now, json.dumps(body, ensure_ascii=True), ttl, None if ttl is None else now + ttl)
        self.do(
            "INSERT INTO objects (id, owner, kind, created, body, ttl, expires) VALUES (?,?,?,?,?,?,?) "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body, ttl = excluded.ttl, expires = excluded.expires",
            row,
        )

    def get(self, kind: str, owner: str, id: str) -> dict[str, Any] | None:
        """An object of this owner; None if there is none. Raises Problem 410 for one that has expired lately."""
        rows = self.do("SELECT body, expires FROM objects WHERE id = ? AND owner = ? AND kind = ?", (id, owner, kind))
        if not rows:
            return None
        if rows[0][0] == _EMPTY or rows[0][1] is not None and rows[0][1] <= self.clock():
            if kind == "try":
                return None
            raise expired(kind, id)
        return json.loads(rows[0][0])

    def touch(self, owner: str, id: str) -> None:
        """An object with a time to live was used: it begins anew."""
        self.do("UPDATE objects SET expires = ? + ttl WHERE id = ? AND owner = ? AND ttl IS NOT NULL", (self.clock(), id, owner))

    def listed(self, kind: str, owner: str, most: int) -> list[dict[str, Any]]:
        """The newest objects of an owner, newest first."""
        ask = (
            "SELECT body FROM objects WHERE owner = ? AND kind = ? AND (expires IS NULL OR expires > ?) "
            "ORDER BY created DESC, rowid DESC LIMIT ?"
        )
        return [json.loads(row[0]) for row in self.do(ask, (owner, kind, self.clock(), most)) if row[0] != _EMPTY]

    def every(self, kind: str) -> list[Ended]:
        """All objects of a kind, of all owners."""
        rows = self.do("SELECT owner, id, body FROM objects WHERE kind = ? AND body != ?", (kind, _EMPTY))
        return [Ended(kind, owner, id, json.loads(body)) for owner, id, body in rows]

    def count(self, kind: str, owner: str) -> int:
        """Objects of an owner."""
        ask = "SELECT count(*) FROM objects WHERE owner = ? AND kind = ? AND body != ? AND (expires IS NULL OR expires > ?)"
        return self.do(ask, (owner, kind, _EMPTY, self.clock()))[0][0]

    def delete(self, kind: str, owner: str, id: str) -> bool:
        """Whether there was such an object."""
        return bool(self.do("DELETE FROM objects WHERE id = ? AND owner = ? AND kind = ? RETURNING id", (id, owner, kind)))

    def expire(self, busy: Sequence[str] = ()) -> list[Ended]:
        """The objects whose time to live has passed, which are now empty; the caller drops what belonged to them.

        busy    ids of objects that are in use, and are left
        """
        now, found = self.clock(), []
        with self.together():
            self.do("DELETE FROM objects WHERE expires < ? AND (kind = 'try' OR expires < ?)", (now, now - GRAVE))
            ask = "SELECT kind, owner, id, body FROM objects WHERE expires <= ? AND body != ? LIMIT 1000"
            for kind, owner, id, body in self.do(ask, (now, _EMPTY)):
                if id not in busy:
                    self.do("UPDATE objects SET body = ? WHERE id = ?", (_EMPTY, id))
                    found.append(Ended(kind, owner, id, json.loads(body)))
        return found

    def extend(self, owner: str, of: str, items: Sequence[dict[str, Any]]) -> None:
        """Add at most 1,000 items to an object, all or none."""
        if items:
            values = [x for item in items for x in (item["id"], owner, of, json.dumps(item))]
            self.do(f"INSERT INTO items (id, owner, of, body) VALUES {','.join(['(?,?,?,?)'] * len(items))}", values)

    def items(self, owner: str, of: str) -> list[dict[str, Any]]:
        """The items of an object, oldest first."""
        rows = self.do("SELECT body FROM items WHERE owner = ? AND of = ? ORDER BY number", (owner, of))
        return [json.loads(row[0]) for row in rows]

    def remove(self, owner: str, of: str, id: str) -> bool:
        """Whether the object had such an item, which is gone."""
        return bool(self.do("DELETE FROM items WHERE owner = ? AND of = ? AND id = ? RETURNING id", (owner, of, id)))

    def clear(self, owner: str, of: str) -> None:
        """Remove all items of an object."""
        self.do("DELETE FROM items WHERE owner = ? AND of = ?", (owner, of))

    def end(self, owner: str, id: str) -> None:
        """Forget a conversation and its items."""
        with self.together():
            self.clear(owner, id)
            self.delete("conversation", owner, id)

    def do(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of one statement."""
        try:
            with self._lock:
                return self._index.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the index of the store failed: {error}") from None
