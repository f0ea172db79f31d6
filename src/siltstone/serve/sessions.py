"""`/sessions`: sessions as things of their own, with the methods of local ones.

A session has a head, which is a mark of its own; what is read or written makes a new head. A call that fails leaves the head
where it was.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import Request

from ..inference.batch import Member
from ..inference.session import Session
from ..inference.work import Writing
from .engine import Joining, undivided
from .house import House, counts, found, owner
from .index import Ended
from .marks import OWN
from .once import Try
from .problem import Problem, bad, missing, over_quota
from .said import Said

Told = Callable[[dict[str, Any]], Any]  # the answer about a session's new object


class Sessions:
    """The sessions of a house."""

    def __init__(self, house: House) -> None:
        self.house, self.alone, self.said = house, house.writers.alone, Said(house.store)
        house.endings["session"] = self._ended
        used = {name for one in house.store.every("session") for name in (one.body["head"], *one.body["marks"])}
        for name in house.store.named(OWN):
            if name not in used:  # a crash came before its session was kept
                house.marks.drop(name)

    def body(self, who: str, id: str) -> dict[str, Any]:
        """The object of a session. Raises Problem."""
        return found(self.house.store.get("session", who, id), "session", id)

    def made(
        self, who: str, session: Session | None, tags: dict[str, str], parent: str | None = None, ttl: float | None = None
    ) -> dict[str, Any]:
        """A new session. Raises Problem if the key has too many."""
        limits = self.house.limits
        if limits.quota_sessions is not None and self.house.store.count("session", who) >= limits.quota_sessions:
            raise over_quota(f"This key has {limits.quota_sessions:,} sessions, and may have no more; delete some.")
        body: dict[str, Any] = {
            "id": f"sess_{secrets.token_hex(24)}",
            "object": "session",
            "created_at": int(time.time()),
            "position": 0 if session is None else session.position,
            "tags": tags,
            "parent": parent,
            "marks": {},
            "ttl": limits.ttl if ttl is None else ttl,
            "head": None,
        }
        if session is None:
            return self._put(who, body)
        head = self._kept(who, session, body)
        with self._head(head), self.house.store.together():
            if parent is not None:
                self.said.copy(parent, body["id"])
            return self._put(who, body | {"head": head})

    def fork(self, who: str, mark: str | None) -> Session:
        """A session at a mark, which is its caller's; None: a new one. Raises Problem if its state is gone."""
        marks = self.house.marks
        if mark is None:
            return Session(marks.model, marks.tokenizer, marks.runtime)
        row = self.house.store.mark(mark, who)
        session = None if row is None else marks.fork(row)
        if session is None:
            raise Problem(410, "The state of this session is gone: a server without --store forgets.", code="session_gone")
        return session

    def moved(
        self, who: str, body: dict[str, Any], session: Session, ids: Sequence[int], told: tuple[Try, Told]
    ) -> dict[str, Any]:
        """The session has a new head, after more ids. told: remembers the answer for retries, and makes it."""
        before, head = body["head"], self._kept(who, session, body)
        with self._head(head), self.house.store.together():
            new = self._put(who, body | {"head": head, "position": session.position})
            self.said.add(body["id"], body["position"], ids)
            one, answer = told
            one.keep(answer(new))
        self._drop(before, new)
        return new

    def update(self, who: str, body: dict[str, Any], tags: dict[str, str] | None, ttl: float | None) -> dict[str, Any]:
        """Other tags, another time to live; None: as before."""
        more = {name: value for name, value in (("tags", tags), ("ttl", ttl)) if value is not None}
        return self._put(who, body | more)

    def marked(self, who: str, id: str) -> dict[str, Any]:
        """A mark at the head."""
        with self.alone(id):
            body = self.body(who, id)
            if body["head"] is None:
                raise bad(None, "The session has read nothing; there is nothing to mark.")
            name = body["head"]
            self._put(who, body | {"marks": body["marks"] | {name: body["position"]}})
            return {"id": name, "object": "mark", "position": body["position"]}

    def twin(self, who: str, id: str) -> dict[str, Any]:
        """A fork, as clients see it."""
        with self.alone(id):
            body = self.body(who, id)
            session = None if body["head"] is None else self.fork(who, body["head"])
            return shown(self.made(who, session, body["tags"], id, body.get("ttl")))

    def back(self, who: str, body: dict[str, Any], mark: str) -> dict[str, Any]:
        """The head is a mark of this session again; later marks are forgotten, as `Session.rollback` does."""
        if mark not in body["marks"]:
            raise missing("mark", mark)
        position = body["marks"][mark]
        self.fork(who, mark)  # it can still be read
        kept = {name: at for name, at in body["marks"].items() if at <= position}
        with self.house.store.together():
            new = self._put(who, body | {"head": mark, "position": position, "marks": kept})
            self.said.cut(body["id"], position)
        for name in {body["head"], *body["marks"]} - {None}:
            self._drop(name, new)
        return new

    def delete(self, who: str, body: dict[str, Any]) -> None:
        """Forget a session, its text and its marks."""
        with self.house.store.together():
            self.house.store.delete("session", who, body["id"])
            self.said.cut(body["id"])
        self._forget(body)

    def _ended(self, one: Ended) -> None:
        with self.house.store.together():
            self.said.cut(one.id)
        self._forget(one.body)

    def _forget(self, body: dict[str, Any]) -> None:
        for name in {body["head"], *body["marks"]} - {None}:
            self.house.marks.drop(name)

    def _kept(self, who: str, session: Session, before: dict[str, Any]) -> str:
        """A mark at a session. before: the object whose head it replaces. Raises Problem for too many bytes."""
        head = before["head"]
        self.house.marks.check(who, session, None if head in before["marks"] else head)
        return self.house.marks.keep(who, OWN, "", session, True)

    @contextmanager
    def _head(self, mark: str) -> Iterator[None]:
        """The mark is dropped if an error is raised inside."""
        try:
            yield
        except BaseException:
            self.house.marks.drop(mark)
            raise

    def _put(self, who: str, body: dict[str, Any]) -> dict[str, Any]:
        """Keep the object; its time to live begins anew."""
        ttl = body.get("ttl")
        new = body | {"expires_at": None if ttl is None else int(self.house.store.clock() + ttl)}
        self.house.store.put("session", who, body["id"], new, ttl)
        return new

    def _drop(self, mark: str | None, body: dict[str, Any]) -> None:
        if mark is not None and mark != body["head"] and mark not in body["marks"]:
            self.house.marks.drop(mark)


class Visit:
    """A request's work on a session in the batch: `begin`, then works of `member`, then `end` or not, and `close` in any case."""

    def __init__(self, sessions: Sessions, request: Request, id: str) -> None:
        who = owner(request)
        self.sessions, self.who, self.engine, self._counts = sessions, who, sessions.house.engine, counts(request)
        sessions.house.writers.take(id)
        self._id, self._entered, self._slots = id, True, 0
        self.members: list[Member] = []
        self._joined: list[Joining] = []
        try:
            self.body = sessions.body(who, id)
        except BaseException:
            self._leave()
            raise

    @property
    def member(self) -> Member:
        """The session in the batch."""
        return self.members[0]

    async def begin(self, written: bool = False, asking: bool | None = None) -> None:
        """Wait for a slot. written: a text is going to be; Problem if the session has read nothing. asking: see `Text`."""
        if written and self.body["head"] is None:
            raise bad(None, "The session has read nothing; append a text first.")
        waited = await self.engine.slot(1)
        self._slots = 1
        self._counts.waited += waited
        self.sessions.house.figures.waited.observe(waited)
        head = self.body["head"]
        session = await asyncio.to_thread(self.sessions.fork, self.who, head)
        await asyncio.to_thread(self.sessions.house.marks.check, self.who, session, head)  # before work that would be lost
        if asking is not None:
            await asyncio.to_thread(setattr, session, "asking", asking)
        self.members.append(await self.engine.join(session, self._joined))

    async def end(self, ids: Sequence[int], one: Try, answer: Told) -> Any:
        """The session's new head is where the member stands, after these ids; what clients are told about it."""
        session = await asyncio.to_thread(self.member.copy)
        return answer(await undivided(self.sessions.moved, self.who, self.body, session, ids, (one, answer)))

    async def fed(self, ids: list[int], scored: bool = False) -> list[float]:
        """The member has read these ids; their probabilities if `scored`."""
        if not ids:
            return []
        work = self.member.feed(ids, scored)
        await self.engine.done(work)
        self.sessions.house.figures.read.inc(len(ids))
        self._counts.read += len(ids)
        return work.result().tolist()

    async def pieces(self, work: Writing) -> AsyncIterator[str]:
        """The pieces of a text as they are written."""
        sent = 0
        async for _ in self.engine.news([work]):
            while sent < len(work.pieces):
                sent += 1
                yield work.pieces[sent - 1]
        self.sessions.house.figures.written.inc(len(work.tokens))
        self._counts.written += len(work.tokens)

    async def close(self) -> None:
        """The member leaves."""
        self._leave()
        if self._slots:
            self._slots = 0
            await asyncio.shield(self.engine.release(self._joined, 1))

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self.sessions.house.writers.give(self._id)


def shown(body: dict[str, Any]) -> dict[str, Any]:
    """A session as clients see it."""
    marks = [{"id": name, "position": at} for name, at in sorted(body["marks"].items(), key=lambda one: one[1])]
    return {key: value for key, value in body.items() if key != "head"} | {"marks": marks}
