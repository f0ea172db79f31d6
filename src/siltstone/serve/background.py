"""Background responses: they are written without a client, and retrieved, followed or cancelled while they are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from .engine import undivided
from .following import Run
from .house import House
from .problem import Problem
from .reply import Reply

RUNNING = ("queued", "in_progress")
STOPPED = Problem(503, "The server was stopped before the response was complete.", code="server_stopped")
GRACE = 10.0  # seconds in which those that run may end when the server is stopped


@dataclass
class Live:
    """A response that is being written."""

    reply: Reply
    run: Run


class Background:
    """All background responses of a server that run."""

    def __init__(self, house: House) -> None:
        self._journal = house.journal
        self._engine, self._told = house.engine, house.figures.problem
        self._live: dict[str, Live] = {}
        for one in house.store.every("response"):  # those of a process that was killed
            if one.body["object"]["status"] in RUNNING:
                body = one.body | {"object": _failed(one.body["object"], STOPPED)}
                house.store.put("response", one.owner, one.id, body, house.limits.ttl)

    def __len__(self) -> int:
        return len(self._live)

    async def begin(self, reply: Reply, until: float | None) -> Run:
        """Write a response, whose object is stored now. Raises Problem if the queue is full."""
        try:
            self._engine.gate.check(1)
            await undivided(reply.record, reply.body)
        except BaseException:
            await reply.close()
            raise
        live = Live(
            reply,
            Run(reply.stream(), lambda: self._end(live), until, lasting=True, failed=lambda e: _told(reply, e), told=self._told),
        )
        self._live[reply.body["id"]] = live
        return live.run

    def find(self, owner: str, id: str) -> Live | None:
        """A response of this owner that runs."""
        live = self._live.get(id)
        return live if live is not None and live.reply.owner == owner else None

    async def cancel(self, owner: str, id: str) -> None:
        """End a response, if it runs."""
        live = self.find(owner, id)
        if live is not None:
            await live.run.stop()

    async def stop(self) -> None:
        """Wait for those that run, for a short time; then they fail."""
        if self._live:
            await asyncio.wait([live.run.task for live in self._live.values()], timeout=GRACE)
        for live in list(self._live.values()):
            live.run.error = STOPPED
            await live.run.stop()

    async def _end(self, live: Live) -> None:
        reply, error = live.reply, live.run.error
        try:
            if not reply.stored:
                reply.body = reply.body | {"status": "cancelled"} if error is None else _failed(reply.body, error)
                await undivided(reply.record, reply.body)
        finally:
            line = {"key": reply.owner, "route": "background", "status": reply.body["status"]}
            self._journal.add(line | reply.answer.counts.line)
            self._live.pop(reply.body["id"], None)
            await reply.close()


def _failed(body: dict[str, Any], error: Problem) -> dict[str, Any]:
    return body | {"status": "failed", "error": {"code": error.code or "server_error", "message": error.message}}


def _told(reply: Reply, error: Problem) -> str:
    if reply.stored:  # the error came too late
        return reply.events[-1]
    reply.body = _failed(reply.body, error)
    return reply.told("response.failed", response=reply.body)
