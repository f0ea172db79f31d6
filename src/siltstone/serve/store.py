"""The index of what the server keeps, in SQLite, and the files of sessions beside it.

A folder has `index.db` (write-ahead log, flushed at every commit), `blobs/` with the heads of sessions, and `pages/` with what
only grows in them (see `inference.paging`). All files are named by the SHA-256 of their content, and written once, whatever
number of sessions share them. A file is written, flushed and renamed, its folder is flushed, and then the rows that name it are
committed. Files that no row names are removed: when the last mark that needs them is dropped, and after a crash when the store is
opened.
Without a folder the index is in memory, and there are no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from ..errors import StorageError
from ..inference import paging
from ..inference.session import Session
from ..io import Claim
from ..io.folder import make_folder
from ..models.lm import LM
from ..text import Tokenizer
from .files import Files, digest_of
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


@dataclass(frozen=True)
class Written:
    """The files of a session: its head, with its bytes, and its pages."""

    blob: str
    pages: tuple[str, ...]
    head: int


class Store(Index):
    """See the module. Every method may be called from any thread, and is complete on the disk when it returns.

    Raises StorageError for a folder that cannot be written; InUse if another process has it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._heads: Files | None = None
        self._pages: Files | None = None
        self._claim: Claim | None = None
        self._sizes: dict[str, int] = {}  # bytes of each page that is on the disk
        if folder is not None:
            self._claim = Claim(make_folder(folder))
            self._heads, self._pages = Files(folder / "blobs", ".silt"), Files(folder / "pages", ".page")
        super().__init__(folder)
        self._sweep()

    @property
    def durable(self) -> bool:
        """Whether what it keeps survives the process."""
        return self._heads is not None

    @property
    def disk(self) -> int:
        """Bytes of the heads and pages."""
        each = "SELECT max(head) AS most FROM marks WHERE blob IS NOT NULL GROUP BY blob"
        ask = f"SELECT (SELECT coalesce(sum(bytes), 0) FROM pages) + (SELECT coalesce(sum(most), 0) FROM ({each}))"
        return self.do(ask)[0][0]

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

    def add(self, mark: MarkRow, written: Written | None = None) -> None:
        """Keep a mark. written: its files, from `write`."""
        row = (*astuple(mark), 0 if written is None else written.head, self.clock())
        try:
            with self.together():
                for digest in {*(() if written is None else written.pages)}:
                    self.do("INSERT OR IGNORE INTO pages (digest, bytes) VALUES (?, ?)", (digest, self._sizes[digest]))
                    self.do("INSERT OR IGNORE INTO holds (blob, page) VALUES (?, ?)", (mark.blob, digest))
                self.do(f"INSERT INTO marks ({_COLUMNS}, head, used) VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        except BaseException:
            if written is not None:
                self._let(written)
                self._abandon(written)
            raise
        if written is not None:
            self._let(written)

    def drop(self, id: str) -> None:
        """Forget a mark, and remove the files that no other mark needs."""
        with self.together():
            rows = self.do("DELETE FROM marks WHERE id = ? RETURNING blob", (id,))
            blob = rows[0][0] if rows else None
            if blob is None or self._marked(blob):
                return
            pages = [row[0] for row in self.do("DELETE FROM holds WHERE blob = ? RETURNING page", (blob,))]
        self._collect(blob, pages)

    def write(self, session: Session) -> Written | None:
        """Write a session's head, and the pages that are new. They stay until `add`. None without a folder."""
        if self._heads is None or self._pages is None:
            return None
        head, pages = paging.dump(session)
        written = Written(digest_of(head), tuple(page.digest for page in pages), len(head))
        self._heads.pin([written.blob])
        self._pages.pin(written.pages)
        try:
            with self._lock:  # what is there now stays, since it is pinned
                new = [page for page in pages if page.digest not in self._sizes]
            for page in new:
                content = page.make()
                self._pages.write(page.digest, content)
                self._sizes[page.digest] = len(content)
            if not self._heads.path(written.blob).exists():
                self._heads.write(written.blob, head)
        except BaseException:
            self._let(written)
            self._abandon(written)
            raise
        return written

    def size(self, written: Written) -> int:
        """Bytes of the files of a session."""
        return written.head + sum(self._sizes[digest] for digest in {*written.pages})

    def load(self, blob: str, model: LM, tokenizer: Tokenizer, runtime: str) -> Session:
        """The session of a head. Raises SessionFileError."""
        if self._pages is None:
            raise StorageError("this store has no folder, and therefore no files; give one with --store")
        return paging.load(self.path(blob), self._pages.path, model, tokenizer, runtime)

    def path(self, blob: str) -> Path:
        """The file of a head."""
        if self._heads is None:
            raise StorageError("this store has no folder, and therefore no files; give one with --store")
        return self._heads.path(blob)

    def _marked(self, blob: str) -> bool:
        """Whether a mark has this head."""
        return bool(self.do("SELECT 1 FROM marks WHERE blob = ? LIMIT 1", (blob,)))

    def _let(self, written: Written) -> None:
        """What was written is no longer pinned."""
        if self._heads is not None and self._pages is not None:
            self._heads.unpin([written.blob])
            self._pages.unpin(written.pages)

    def _abandon(self, written: Written) -> None:
        """What was written is removed unless a row names it."""
        with suppress(StorageError):  # what is left over is removed at the next start
            self._collect(written.blob, written.pages)

    def _collect(self, blob: str, pages: Sequence[str]) -> None:
        """Remove files that no row names. What is pinned stays: whoever has pinned it collects it, or commits it."""
        if self._heads is None or self._pages is None:
            return
        with self._lock:
            if not self._marked(blob):
                self._heads.remove(blob)
            for digest in {*pages}:
                held = self.do("SELECT 1 FROM holds WHERE page = ? LIMIT 1", (digest,))
                if not held and self._pages.remove(digest):
                    self._sizes.pop(digest, None)
                    self.do("DELETE FROM pages WHERE digest = ?", (digest,))

    @property
    def counts(self) -> tuple[int, int]:
        """Marks, and those of them that have a file."""
        return self.do("SELECT count(*), count(blob) FROM marks", ())[0]

    def _sweep(self) -> None:
        """Forget marks that were in memory alone, or whose files are gone; remove files that no mark has."""
        self.do("DELETE FROM marks WHERE blob IS NULL")
        if self._heads is None or self._pages is None:
            return
        heads = self._heads.sweep([row[0] for row in self.do("SELECT DISTINCT blob FROM marks")])
        lost = self._pages.sweep([row[0] for row in self.do("SELECT DISTINCT page FROM holds")])
        heads |= {row[0] for digest in lost for row in self.do("SELECT blob FROM holds WHERE page = ?", (digest,))}
        self.do("DELETE FROM pages WHERE digest NOT IN (SELECT page FROM holds)")
        self._sizes |= dict(self.do("SELECT digest, bytes FROM pages"))
        for blob in heads:
            for (id,) in self.do("SELECT id FROM marks WHERE blob = ?", (blob,)):
                self.drop(id)
