"""Streams of events: a task makes them, and any number of clients follow them, from the beginning or from later on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from fastapi.responses import StreamingResponse

from .problem import Problem, late, problem

Close = Callable[[], Coroutine[Any, Any, None]]
MEDIA = "text/event-stream"


class Run:
    """The events of one answer. A client that reads slowly delays nobody: the events wait for it, and the slot is free.

    source   yields the events; close: called at the end in any case
    until    time of the event loop at which it ends with an error; None: no limit
    lasting  whether it goes on without a client
    failed   the last event after an error; told: is called with the error
    events   so far; an error is the last event
    task     makes them
    """

    def __init__(
        self,
        source: AsyncGenerator[str, None],
        close: Close | None = None,
        until: float | None = None,
        lasting: bool = False,
        failed: Callable[[Problem], str] | None = None,
        told: Callable[[Problem], None] = lambda error: None,
    ) -> None:
        self.events: list[str] = []
        self.lasting, self.ended = lasting, False
        self.error: Problem | None = None
        self._followers: set[asyncio.Event] = set()
        self._told = told
        self._failed = failed or (lambda error: event(error.body | {"status": error.status}))
        self.task = asyncio.get_running_loop().create_task(self._make(source, close, until))

    async def follow(self, after: int = 0) -> AsyncGenerator[str, None]:
        """The events from number `after` on, until the last one."""
        news = asyncio.Event()
        self._followers.add(news)
        try:
            while True:
                news.clear()
                while after < len(self.events):
                    after += 1
                    yield self.events[after - 1]
                if self.ended and after >= len(self.events):
                    return
                await news.wait()
        finally:
            self._followers.discard(news)

    async def stop(self) -> None:
        """End it, and wait until it has closed."""
        self.task.cancel()
        await asyncio.wait({self.task})

    async def left(self) -> None:
        """A client has left: end it if no other follows."""
        if not self._followers and not self.lasting:
            await self.stop()

    async def wait(self) -> None:
        """Return after its end."""
        await asyncio.wait({self.task})

    def _add(self, text: str) -> None:
        self.events.append(text)
        self._tell()

    def _tell(self) -> None:
        for news in self._followers:
            news.set()

    async def _make(self, source: AsyncGenerator[str, None], close: Close | None, until: float | None) -> None:
        try:
            async with asyncio.timeout_at(until) as limit:
                async for text in source:
                    self._add(text)
        except Exception as error:
            self.error = late() if limit.expired() else problem(error)
            self._told(self.error)
            self._add(self._failed(self.error))
        finally:
            try:
                await source.aclose()
                if close is not None:
                    await close()
            finally:
                self.ended = True
                self._tell()


class Events(StreamingResponse):
    """Server-sent events of a run. after: the number of the first one."""

    def __init__(self, run: Run, after: int = 0) -> None:
        super().__init__(run.follow(after), media_type=MEDIA, headers={"Cache-Control": "no-store"})
        self._run = run

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        source: Any = self.body_iterator
        try:
            await super().__call__(scope, receive, send)
        finally:
            await source.aclose()
            await self._run.left()


def event(body: Any, name: str | None = None) -> str:
    """One event; a text is sent as it is."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {body if isinstance(body, str) else json.dumps(body)}\n\n"


async def again(events: list[str]) -> AsyncGenerator[str, None]:
    """Events that were made earlier."""
    for text in events:
        yield text
