"""Sessions that are kept after they were read: a later request with the same beginning goes on from the longest of them."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ..errors import SessionFileError
from ..inference.session import Session
from ..models.fingerprint import Seen, with_tokenizer
from ..models.lm import LM
from ..text import Tokenizer
from .problem import over_quota
from .store import MarkRow, Store

OWN = "session"  # no conversation has this item: what sessions have read serves no other request
NEWEST = 128  # items, from the end of a conversation, after which all sessions are kept: 64 turns


def chain(seed: str, items: Sequence[Any]) -> list[str]:
    """A digest for each beginning of `items` (values for JSON): after one item, after two, ..."""
    found, last = [], seed
    for item in items:
        last = hashlib.sha256(f"{last}\0{json.dumps(item, sort_keys=True)}".encode()).hexdigest()
        found.append(last)
    return found


def digest(text: str) -> str:
    """SHA-256 of a text, which may have lone surrogates."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Marks:
    """Every method may be called from any thread; a session that is kept is never changed, only forked.

    sessions, memory   most sessions, and most bytes of them, in memory; those that were not used for longest are put away: they
                       come back from their files, or are forgotten if they have none
    quota              most bytes of one owner, of all marks together; None: no limit
    seed               differs between models, tokenizers and templates
    """

    def __init__(
        self,
        store: Store,
        pair: tuple[LM, Tokenizer],
        runtime: str,
        limits: tuple[int, int],
        template: str,
        quota: int | None = None,
    ) -> None:
        self.store, self.runtime, self.quota = store, runtime, quota
        self.model, self.tokenizer = pair
        self.sessions, self.memory = limits
        self.seed = digest(f"{with_tokenizer(Seen(self.model).fingerprint, self.tokenizer)}\0{runtime == 'int8'}\0{template}")
        self.parked = self.woken = 0
        self._used: set[str] = set()  # since the last call of `age`
        self._held: OrderedDict[str, tuple[Session, int, bool]] = OrderedDict()
        self._bytes, self._lock = 0, threading.RLock()

    def __len__(self) -> int:
        """Sessions in memory."""
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of the sessions in memory; what forks share is counted for each."""
        return self._bytes

    def find(self, owner: str, items: Sequence[str], text: str) -> tuple[Session, int] | None:
        """A fork of the session that has read the longest beginning of `text`, and the length of this beginning.

        items   what a session may be found by
        """
        digests: dict[int, str] = {}
        for mark in self.store.marks(owner, items):
            if mark.length > len(text):
                continue
            if mark.length not in digests:
                digests[mark.length] = digest(text[: mark.length])
            if digests[mark.length] == mark.digest and (session := self.fork(mark)) is not None:
                return session, mark.length
        return None

    def fork(self, mark: MarkRow) -> Session | None:
        """A fork of a kept session; None if its file can no longer be read (the mark is then forgotten)."""
        with self._lock:
            self._used.add(mark.id)
            held = self._held.get(mark.id)
            if held is not None:
                self._held.move_to_end(mark.id)
                return held[0].fork()
            if mark.blob is None:
                self.store.drop(mark.id)
                return None
            try:
                session = self.store.load(mark.blob, self.model, self.tokenizer, self.runtime)
            except SessionFileError:
                self.store.drop(mark.id)
                return None
            self.woken += 1
            self._hold(mark.id, session, True)
            return session.fork()

    def keep(self, owner: str, item: str, text: str, session: Session, durable: bool) -> str:
        """Keep a session, which nobody else uses from now on; the name of its mark.

        text      what it has read
        durable   write its file now, if the store has a folder
        """
        found, filed = digest(text), durable and self.store.durable
        for mark in self.store.marks(owner, [item]) if text else ():
            if mark.digest == found and (mark.blob is not None or not filed and mark.id in self._held):
                return mark.id  # an equal one is as good
        written = self.store.write(session) if filed else None
        blob, size = (None, session.nbytes) if written is None else (written.blob, self.store.size(written))
        mark = MarkRow(f"mark_{secrets.token_hex(16)}", owner, item, len(text), found, session.position, blob=blob, bytes=size)
        self.store.add(mark, written)
        with self._lock:
            self._hold(mark.id, session, blob is not None)
        self._within(owner, mark.id)
        return mark.id

    def check(self, owner: str, session: Session, freed: str | None) -> None:
        """Raises Problem if a session of its own would exceed the owner's quota of bytes. freed: a mark that it replaces."""
        if self.quota is None:
            return
        row = None if freed is None else self.store.mark(freed, owner)
        used = self.store.used(owner, OWN) + session.nbytes - (0 if row is None else row.bytes)
        if used > self.quota:
            raise over_quota(
                f"The sessions of this key would take {used:,} bytes, and {self.quota:,} are allowed; delete sessions or marks."
            )

    def _within(self, owner: str, newest: str) -> None:
        """Forget what conversations have read, the oldest first, until the owner is within the quota."""
        while self.quota is not None and self.store.used(owner) > self.quota:
            ids = [id for id in self.store.oldest(owner, OWN, 16) if id != newest]
            for id in ids:
                self.drop(id)
            if not ids:
                return

    def thin(self, owner: str, items: Sequence[str]) -> None:
        """Of the sessions that are found by these items, keep those of the newest turns, and ever fewer of those before; of one
        item, those that were kept last."""
        index = {item: i for i, item in enumerate(items)}
        for mark in self.store.marks(owner, items[:-NEWEST]):
            age = len(items) - 1 - index[mark.item]
            if index[mark.item] % (1 << (age // NEWEST).bit_length()):
                self.drop(mark.id)
        for id in self.store.old_marks(owner, items[-1], NEWEST):
            self.drop(id)

    def age(self, ttl: float | None) -> None:
        """Forget what conversations have read if it was not used for so many seconds (None: nothing is forgotten)."""
        with self._lock:
            used, self._used = list(self._used), set()
        if ttl is None:
            return
        for id in self.store.stale(OWN, self.store.clock() - ttl, used):
            self.drop(id)

    def drop(self, id: str) -> None:
        """Forget a mark."""
        with self._lock:
            if id in self._held:
                self._bytes -= self._held.pop(id)[1]
            self.store.drop(id)

    def _hold(self, id: str, session: Session, filed: bool) -> None:
        size = session.nbytes
        self._held[id] = session, size, filed
        self._bytes += size
        while len(self._held) > 1 and (len(self._held) > self.sessions or self._bytes > self.memory):
            away, (_, size, filed) = self._held.popitem(last=False)
            self._bytes -= size
            self.parked += 1
            if not filed:
                self.store.drop(away)
