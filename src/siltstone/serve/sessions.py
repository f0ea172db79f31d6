"""`/sessions`: sessions as things of their own, with the methods of local ones.

A session has a head, which is a mark of its own; what is read or written makes a new head. A call that fails leaves the head
where it was.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from ..errors import SessionFileError, SessionMismatch, SessionVersion
from ..inference.batch import Member
from ..inference.session import Session
from .conversation import sound
from .engine import Joining, undivided
from .fields import Append, Continue, NewSession, Rollback, Score, parsed
from .following import Run, event
from .house import House, begun, found, once, owner, read_body, read_json, streamed, while_there
from .marks import OWN
from .once import Try
from .problem import Problem, bad, missing, over_quota

MOST_UPLOAD = 256 << 20  # bytes
MOST_LISTED = 1000


class Sessions:
    """The sessions of a house."""

    def __init__(self, house: House) -> None:
        self.house, self.alone = house, house.writers.alone

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
        if session is not None:
            body["head"] = self._kept(who, session, body)
        return self._put(who, body)

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

    def moved(self, who: str, body: dict[str, Any], session: Session) -> dict[str, Any]:
        """The session has a new head."""
        before, head = body["head"], self._kept(who, session, body)
        try:
            new = self._put(who, body | {"head": head, "position": session.position})
        except BaseException:
            self.house.marks.drop(head)
            raise
        self._drop(before, new)
        return new

    def marked(self, who: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A mark at the head."""
        if body["head"] is None:
            raise bad(None, "The session has read nothing; there is nothing to mark.")
        name = body["head"]
        return name, self._put(who, body | {"marks": body["marks"] | {name: body["position"]}})

    def back(self, who: str, body: dict[str, Any], mark: str) -> dict[str, Any]:
        """The head is a mark of this session again; later marks are forgotten, as `Session.rollback` does."""
        if mark not in body["marks"]:
            raise missing("mark", mark)
        position = body["marks"][mark]
        self.fork(who, mark)  # it can still be read
        kept = {name: at for name, at in body["marks"].items() if at <= position}
        new = self._put(who, body | {"head": mark, "position": position, "marks": kept})
        for name in {body["head"], *body["marks"]} - {None}:
            self._drop(name, new)
        return new

    def delete(self, who: str, body: dict[str, Any]) -> None:
        """Forget a session and its marks."""
        self.house.store.delete("session", who, body["id"])
        self.drop(body)

    def drop(self, body: dict[str, Any]) -> None:
        """Forget the marks of a session."""
        for name in {body["head"], *body["marks"]} - {None}:
            self.house.marks.drop(name)

    def _kept(self, who: str, session: Session, before: dict[str, Any]) -> str:
        """A mark at a session. before: the object whose head it replaces. Raises Problem for too many bytes."""
        head = before["head"]
        self.house.marks.check(who, session, None if head in before["marks"] else head)
        return self.house.marks.keep(who, OWN, "", session, True)

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

    def __init__(self, sessions: Sessions, who: str, id: str) -> None:
        self.sessions, self.who, self.engine = sessions, who, sessions.house.engine
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

    async def begin(self, written: bool = False) -> None:
        """Wait for a slot. written: a text is going to be; Problem if the session has read nothing."""
        if written and self.body["head"] is None:
            raise bad(None, "The session has read nothing; append a text first.")
        await self.engine.gate.take(1)
        self._slots = 1
        session = await asyncio.to_thread(self.sessions.fork, self.who, self.body["head"])
        self.members.append(await self.engine.join(session, self._joined))

    async def end(self) -> dict[str, Any]:
        """The session's new head is where the member stands."""
        session = await asyncio.to_thread(self.member.copy)
        return await undivided(self.sessions.moved, self.who, self.body, session)

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


def routes(house: House) -> APIRouter:
    """The routes of sessions."""
    router, sessions = APIRouter(prefix="/sessions"), Sessions(house)
    house.endings["session"] = lambda one: sessions.drop(one.body)

    @router.post("")
    async def create(request: Request) -> Any:
        given = parsed(NewSession, await read_json(request))
        return shown(await asyncio.to_thread(sessions.made, owner(request), None, given.tags or {}, None, given.ttl))

    @router.get("")
    def listed(request: Request) -> Any:
        data = [shown(body) for body in house.store.listed("session", owner(request), MOST_LISTED)]
        return {"object": "list", "data": data, "has_more": False}

    @router.post("/upload")
    async def upload(request: Request) -> Any:
        if request.headers.get("content-type") != "application/octet-stream":
            raise Problem(415, "The content type must be application/octet-stream.", code="unsupported_media_type")
        content = await read_body(request, MOST_UPLOAD)
        session = await asyncio.to_thread(_loaded, house, content)
        return shown(await asyncio.to_thread(sessions.made, owner(request), session, {}))

    @router.get("/{id}")
    def retrieve(request: Request, id: str) -> Any:
        return shown(sessions.body(owner(request), id))

    @router.delete("/{id}")
    def delete(request: Request, id: str) -> Any:
        with sessions.alone(id):
            sessions.delete(owner(request), sessions.body(owner(request), id))
        return {"id": id, "object": "session.deleted", "deleted": True}

    @router.get("/{id}/file")
    def download(request: Request, id: str) -> Any:
        body = sessions.body(owner(request), id)
        folder = tempfile.TemporaryDirectory(prefix="siltstone-")
        file = Path(folder.name) / f"{id}.silt"
        sessions.fork(owner(request), body["head"]).save(file)
        task = BackgroundTask(folder.cleanup)
        return FileResponse(file, media_type="application/octet-stream", filename=file.name, background=task)

    @router.post("/{id}/append")
    async def append(request: Request, id: str) -> Any:
        body = await read_json(request)
        given = parsed(Append, body)
        ids = await _ids(house, given.text, given.ids)

        async def work(one: Try) -> dict[str, Any]:
            visit = Visit(sessions, owner(request), id)
            try:
                await visit.begin()
                await _fed(visit, ids)
                return shown(await visit.end()) | {"read": len(ids)}
            finally:
                await visit.close()

        return await once(house, request, body, work)

    @router.post("/{id}/score")
    async def score(request: Request, id: str) -> Any:
        given = parsed(Score, await read_json(request))
        ids = await _ids(house, given.text, given.ids)
        visit = Visit(sessions, owner(request), id)

        async def work() -> dict[str, Any]:
            try:
                await visit.begin()
                scores = await _fed(visit, ids, True)
                bits = -sum(x for x in scores if not math.isnan(x)) / math.log(2)
                return {"logprobs": [None if math.isnan(x) else x for x in scores], "bits": bits, "ids": ids}
            finally:
                await visit.close()

        return await while_there(request, work())

    @router.post("/{id}/generate")
    async def generate(request: Request, id: str) -> Any:
        body = await read_json(request)
        given = parsed(Continue, body)

        async def written(visit: Visit) -> AsyncGenerator[str, None]:
            stop = [given.stop] if isinstance(given.stop, str) else given.stop
            warm = 1.0 if given.temperature is None else given.temperature
            work = visit.member.generate(given.max_tokens or 100, warm, top_p=given.top_p, stop=stop, seed=given.seed)
            sent = 0
            async for _ in visit.engine.news([work]):
                while sent < len(work.pieces):
                    sent += 1
                    yield work.pieces[sent - 1]
            house.figures.written.inc(len(work.tokens))

        async def whole(one: Try) -> dict[str, Any]:
            visit = Visit(sessions, owner(request), id)
            try:
                await visit.begin(written=True)
                text = "".join([piece async for piece in written(visit)])
                return shown(await visit.end()) | {"text": text}
            finally:
                await visit.close()

        async def events(visit: Visit) -> AsyncGenerator[str, None]:
            async for piece in written(visit):
                yield event({"piece": piece})
            yield event({"session": shown(await visit.end())})
            yield event("[DONE]")

        async def run(one: Try) -> Run:
            visit = Visit(sessions, owner(request), id)
            return await begun(house, request, visit.begin(written=True), events(visit), visit.close)

        return await (streamed(house, request, body, run) if given.stream else once(house, request, body, whole))

    @router.post("/{id}/fork")
    def fork(request: Request, id: str) -> Any:
        who = owner(request)
        with sessions.alone(id):
            body = sessions.body(who, id)
            session = None if body["head"] is None else sessions.fork(who, body["head"])
            return shown(sessions.made(who, session, body["tags"], id, body.get("ttl")))

    @router.post("/{id}/mark")
    def mark(request: Request, id: str) -> Any:
        with sessions.alone(id):
            name, body = sessions.marked(owner(request), sessions.body(owner(request), id))
            return {"id": name, "object": "mark", "position": body["position"]}

    @router.post("/{id}/rollback")
    async def rollback(request: Request, id: str) -> Any:
        given = parsed(Rollback, await read_json(request))
        with sessions.alone(id):
            body = sessions.body(owner(request), id)
            return shown(await asyncio.to_thread(sessions.back, owner(request), body, given.mark))

    return router


async def _ids(house: House, text: str | None, ids: Sequence[int] | None) -> list[int]:
    if (text is None) == (ids is None):
        raise bad("text", "Give text or ids.")
    if text is not None:
        return await asyncio.to_thread(house.tokenizer.encode, sound(text, "text"))
    if ids and max(ids) >= house.tokenizer.vocab_size:
        raise bad("ids", f"ids has {max(ids)}; ids are 0 to {house.tokenizer.vocab_size - 1}.")
    return list(ids or ())


async def _fed(visit: Visit, ids: list[int], scored: bool = False) -> list[float]:
    if not ids:
        return []
    work = visit.member.feed(ids, scored)
    await visit.engine.done(work)
    visit.sessions.house.figures.read.inc(len(ids))
    return work.result().tolist()


def _loaded(house: House, content: bytes) -> Session:
    """The session of a file that a client sent. Raises Problem; its message names no path."""
    marks = house.marks
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder:
        file = Path(folder) / "upload.silt"
        file.write_bytes(content)
        try:
            session = Session.load(file, marks.model, marks.tokenizer, marks.runtime)
        except SessionMismatch:
            raise bad(None, "The file is of a session with another model or tokenizer.") from None
        except SessionVersion:
            raise bad(None, "The file was written by a newer Siltstone.") from None
        except SessionFileError:
            raise bad(None, "The file is no session file, or it is damaged.") from None
    if not session.position:
        raise bad(None, "The session of this file has read nothing.")
    return session
