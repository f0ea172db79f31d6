"""What all routes share: the model, the engine, what is kept; and how a request's body is read and its answer is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from ..errors import CheckpointError, InputError, OutOfMemory, SiltstoneError, StorageError
from ..models.lm import LM
from ..text import Tokenizer
from .answer import Answer, Prompt, Tools, Wanted
from .engine import Engine
from .figures import Figures
from .keys import Keys
from .marks import Marks
from .once import Answered, Writers
from .problem import Problem, bad, left_early, missing
from .store import Store
from .template import Template

T = TypeVar("T")
MOST_BYTES = 8 << 20  # of a body


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    slots      texts that are written together; queue: requests that wait for a slot, at most
    sessions   kept sessions in memory, at most; memory: bytes of them
    """

    slots: int = 64
    queue: int = 256
    sessions: int = 1024
    memory: int = 1 << 30


@dataclass
class House:
    """See the module.

    name      the name of the model, as clients see it
    public    whether it can be reached from other machines
    """

    model: LM
    tokenizer: Tokenizer
    name: str
    folder: Path | None = None
    keys: Keys = field(default_factory=Keys)
    limits: Limits = Limits()
    runtime: str = "auto"
    public: bool = False

    def __post_init__(self) -> None:
        self.store = Store(self.folder)
        self.template = Template(self.tokenizer)
        self.engine = Engine(self.model, self.tokenizer, self.limits.slots, self.limits.queue, self.runtime)
        kept = (self.limits.sessions, self.limits.memory)
        self.marks = Marks(self.store, (self.model, self.tokenizer), self.runtime, kept, self.template.name)
        self.figures, self.writers, self.answered = Figures(), Writers(), Answered()
        self.tools = Tools(self.engine, self.marks, self.template, self.figures)

    def model_named(self, name: str | None) -> str:
        """The name of the model; 404 for another model."""
        if name not in (None, self.name):
            raise Problem(
                404, f"The model {ascii(name)[:80]} does not exist; this server has {self.name!r}.", "model", "model_not_found"
            )
        return self.name

    def answer(self, request: Request, prompt: Prompt, wanted: Wanted) -> Answer:
        """An answer for the key of a request. Raises Problem if there are fewer slots than texts."""
        if wanted.n > self.limits.slots:
            raise bad("n", f"n={wanted.n} is more than the {self.limits.slots} slots of this server.")
        return Answer(self.tools, owner(request), prompt, wanted)


def owner(request: Request) -> str:
    """The name of the request's key."""
    return request.scope["state"]["owner"]


async def read_json(request: Request) -> Any:
    """The body. Raises Problem for another content type, a body that is too large, or no JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "The content type must be application/json.", code="unsupported_media_type")
    return as_json(await read_body(request, MOST_BYTES))


async def read_body(request: Request, most: int) -> bytes:
    """The bytes of the body, `most` at most."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > most:
            raise Problem(413, f"The body is larger than {most:,} bytes.", code="request_too_large")
    return bytes(found)


def as_json(body: bytes) -> Any:
    """A JSON value. Raises Problem."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise bad(None, "The body is not valid JSON in UTF-8.") from None


async def once(house: House, request: Request, body: Any, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The answer that `make` makes, or the earlier one if the request is a retry."""
    name = house.answered.name(request, body)
    answer = house.answered.earlier(request, name)
    if answer is None:
        answer = await while_there(request, make())
        house.answered.keep(name, answer)
    return answer


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves. The body must have been read."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (task, left):
            each.cancel()
        await asyncio.wait({task, left})  # it is complete, or has undone what it began
        _ = task.cancelled() or task.exception()  # it counts as seen
    if task.cancelled():
        raise left_early()
    return task.result()


class Events(StreamingResponse):
    """Server-sent events. `close` is called at the end, also if the client has left before the first one."""

    def __init__(self, source: AsyncGenerator[str, None], close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(self._sent(source), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._source, self._close = source, close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                await self._source.aclose()
            finally:
                await self._close()

    async def _sent(self, source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        try:
            async for text in source:
                yield text
        except Exception as error:
            yield event(problem(error).body)


def event(body: Any, name: str | None = None) -> str:
    """One event; a text is sent as it is."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {body if isinstance(body, str) else json.dumps(body)}\n\n"


def problem(error: Exception) -> Problem:
    """Any error as a Problem; those of the program itself tell nothing."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ClientDisconnect):
        return left_early()
    if isinstance(error, OutOfMemory | MemoryError):
        return Problem(503, "The server has no memory for this request.", code="out_of_memory", retry=5)
    if isinstance(error, StorageError):
        return Problem(503, "The server's store failed; nothing was appended.", code="storage_failed", retry=5)
    if isinstance(error, CheckpointError):
        return Problem(500, "The model's weights are damaged.", code="model_damaged")
    if isinstance(error, InputError):
        return bad(None, str(error)[:300])
    if isinstance(error, SiltstoneError):
        return Problem(503, "The model cannot be used now.", code="model_unavailable", retry=5)
    return Problem(500, "The server had an error; nothing was appended.", code="internal_error")


def found(body: dict[str, Any] | None, what: str, name: str) -> dict[str, Any]:
    """The object; 404 if there is none."""
    if body is None:
        raise missing(what, name)
    return body


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
