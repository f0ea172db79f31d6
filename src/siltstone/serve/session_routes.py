"""The routes of `/sessions`."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from ..inference.work import Writing
from .fields import Continue, Find, NewSession, Rollback, Score, SessionUpdate, parsed
from .following import Run, event
from .house import House, begun, once, owner, read_json, streamed, while_there
from .once import Try
from .problem import Problem, bad
from .said import found, weighed
from .sessions import Sessions, Visit, shown
from .uploads import RAW, Text, appended, given_ids, kind, loaded, received

MOST_LISTED, MOST_FOUND = 1000, 10


def routes(house: House) -> APIRouter:
    """The routes of sessions."""
    router, sessions = APIRouter(prefix="/sessions"), Sessions(house)

    @router.post("")
    async def create(request: Request) -> Any:
        given = parsed(NewSession, sent := await read_json(request))

        async def work(one: Try) -> Any:
            return shown(await asyncio.to_thread(sessions.made, owner(request), None, given.tags or {}, None, given.ttl))

        return await once(house, request, sent, work)

    @router.get("")
    def listed(request: Request) -> Any:
        data = [shown(body) for body in house.store.listed("session", owner(request), MOST_LISTED)]
        for tag in request.query_params.getlist("tag"):
            name, _, value = tag.partition(":")
            data = [body for body in data if body["tags"].get(name) == value]
        return {"object": "list", "data": data, "has_more": False}

    @router.post("/upload")
    async def upload(request: Request) -> Any:
        if kind(request) != RAW:
            raise Problem(415, f"The content type must be {RAW}.", code="unsupported_media_type")
        file, _, digest = await received(request)

        async def work(one: Try) -> Any:
            session = await asyncio.to_thread(loaded, house.marks, file)
            return shown(await asyncio.to_thread(sessions.made, owner(request), session, {}))

        with file:
            return await once(house, request, digest, work)

    @router.get("/{id}")
    def retrieve(request: Request, id: str) -> Any:
        return shown(sessions.body(owner(request), id))

    @router.post("/{id}")
    async def update(request: Request, id: str) -> Any:
        given = parsed(SessionUpdate, await read_json(request))
        with sessions.alone(id):
            body = sessions.body(owner(request), id)
            return shown(await asyncio.to_thread(sessions.update, owner(request), body, given.tags, given.ttl))

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
        return FileResponse(file, media_type=RAW, filename=file.name, background=task)

    @router.post("/{id}/append")
    async def append(request: Request, id: str) -> Any:
        text = await appended(house, request)

        async def whole(one: Try) -> Any:
            visit = Visit(sessions, request, id)
            try:
                await visit.begin(asking=text.asking)
                async for _ in (reading := Reading(visit, text)).shares():
                    pass
                return await visit.end(reading.ids, one, lambda new: shown(new) | {"read": len(reading.ids)})
            finally:
                await visit.close()

        async def events(visit: Visit, one: Try) -> AsyncGenerator[str, None]:
            reading, sent = Reading(visit, text), []
            async for share in reading.shares():
                sent.append(event({"read": len(reading.ids), "share": round(share, 4)}))
                yield sent[-1]
            for last in await last_of(visit, reading.ids, one, sent):
                yield last

        async def run(one: Try) -> Run:
            visit = Visit(sessions, request, id)

            async def close() -> None:
                text.close()
                await visit.close()

            return await begun(house, request, visit.begin(asking=text.asking), events(visit, one), close)

        if text.stream:
            return await streamed(house, request, text.name, run)
        try:
            return await once(house, request, text.name, whole)
        finally:
            text.close()

    @router.post("/{id}/score")
    async def score(request: Request, id: str) -> Any:
        given = parsed(Score, await read_json(request))
        ids = await given_ids(house, given.text, given.ids)

        async def work() -> dict[str, Any]:
            visit = Visit(sessions, request, id)
            try:
                await visit.begin()
                scores = await visit.fed(ids, True)
                bits = -sum(x for x in scores if not math.isnan(x)) / math.log(2)
                return {"logprobs": [None if math.isnan(x) else x for x in scores], "bits": bits, "ids": ids}
            finally:
                await visit.close()

        return await while_there(request, work())

    @router.post("/{id}/find")
    async def find(request: Request, id: str) -> Any:
        given = parsed(Find, await read_json(request))
        if (given.text is None) == (given.question is None):
            raise bad("text", "Give text, to find it, or a question, to find what it attends to.")
        most, tok = given.limit or MOST_FOUND, house.tokenizer

        async def attended(visit: Visit) -> Any:
            try:
                await visit.begin(written=True, asking=True)
                await visit.fed(await given_ids(house, given.question, None))
                return (await asyncio.to_thread(visit.member.copy)).attended()
            finally:
                await visit.close()

        sessions.body(owner(request), id)
        parts = await asyncio.to_thread(sessions.said.parts, id)
        if given.text is not None:
            data = await asyncio.to_thread(found, tok, parts, given.text, most)
        else:
            spans = await while_there(request, attended(Visit(sessions, request, id)))
            if spans is None:
                raise bad("question", "This model does not say what it attends to: no layer has cache='blocks'. Give text.")
            data = await asyncio.to_thread(weighed, tok, parts, spans, most)
        return {"object": "list", "data": data, "has_more": False}

    @router.post("/{id}/generate")
    async def generate(request: Request, id: str) -> Any:
        given = parsed(Continue, body := await read_json(request))

        def begin(visit: Visit) -> Writing:
            stop = [given.stop] if isinstance(given.stop, str) else given.stop
            warm = 1.0 if given.temperature is None else given.temperature
            return visit.member.generate(given.max_tokens or 100, warm, top_p=given.top_p, stop=stop, seed=given.seed)

        async def whole(one: Try) -> Any:
            visit = Visit(sessions, request, id)
            try:
                await visit.begin(written=True)
                work = begin(visit)
                text = "".join([piece async for piece in visit.pieces(work)])
                return await visit.end(work.tokens, one, lambda new: shown(new) | {"text": text})
            finally:
                await visit.close()

        async def events(visit: Visit, one: Try) -> AsyncGenerator[str, None]:
            work, sent = begin(visit), []
            async for piece in visit.pieces(work):
                sent.append(event({"piece": piece}))
                yield sent[-1]
            for last in await last_of(visit, work.tokens, one, sent):
                yield last

        async def run(one: Try) -> Run:
            visit = Visit(sessions, request, id)
            return await begun(house, request, visit.begin(written=True), events(visit, one), visit.close)

        return await (streamed(house, request, body, run) if given.stream else once(house, request, body, whole))

    @router.post("/{id}/fork")
    async def fork(request: Request, id: str) -> Any:
        return await once(house, request, None, lambda one: asyncio.to_thread(sessions.twin, owner(request), id))

    @router.post("/{id}/mark")
    async def mark(request: Request, id: str) -> Any:
        return await once(house, request, None, lambda one: asyncio.to_thread(sessions.marked, owner(request), id))

    @router.post("/{id}/rollback")
    async def rollback(request: Request, id: str) -> Any:
        given = parsed(Rollback, await read_json(request))
        with sessions.alone(id):
            body = sessions.body(owner(request), id)
            return shown(await asyncio.to_thread(sessions.back, owner(request), body, given.mark))

    return router


async def last_of(visit: Visit, ids: Sequence[int], one: Try, sent: list[str]) -> list[str]:
    """The last events of a stream: the session has a new head. Retries get those that were sent, and these."""
    told = await visit.end(ids, one, lambda new: [*sent, event({"session": shown(new)}), event("[DONE]")])
    return told[len(sent) :]


class Reading:
    """A session reads a text in parts. ids: those that it has read."""

    def __init__(self, visit: Visit, text: Text) -> None:
        self._visit, self._text = visit, text
        self.ids: list[int] = []

    async def shares(self) -> AsyncIterator[float]:
        """The share of the text that is read, after each part."""
        async for part, share in self._text.parts(self._visit.sessions.house.tokenizer):
            await self._visit.fed(part)
            self.ids += part
            yield share
