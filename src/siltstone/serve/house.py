"""What all routes share: the model, the engine, what is kept; and how a request's body is read and its answer is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastapi import Request

from ..models.lm import LM
from ..text import Tokenizer
from .answer import Answer, Prompt, Tools, Wanted
from .engine import Engine
from .figures import Figures
from .following import Close, Events, Run, again
from .index import Ended
from .journal import Counts, Journal
from .keys import Keys
from .marks import Marks
from .once import Tries, Try, Writers
from .problem import LEFT, Problem, bad, late, left_early, missing
from .store import Store
from .template import Template

T = TypeVar("T")
MOST_BYTES = 8 << 20  # of a body


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    slots      texts that are written together; queue: requests that wait for a slot, at most
    sessions   kept sessions in memory, at most; memory: bytes of them
    ttl        seconds after which what was not used is forgotten: sessions, responses, conversations; None: never
    deadline   seconds that a request may take; of one that streams, or runs in the background, its answer
    quota_sessions, quota_bytes   what one key may have: sessions of `/sessions`, and bytes of kept sessions; None: no limit
    """

    slots: int = 64
    queue: int = 256
    sessions: int = 1024
    memory: int = 1 << 30
    deadline: float = 3600.0
    ttl: float | None = None
    quota_sessions: int | None = None
    quota_bytes: int | None = None


@dataclass
class House:
    """See the module.

    name      the name of the model, as clients see it
    public    whether it can be reached from other machines
    log       the form of the lines on standard error, one a request
    """

    model: LM
    tokenizer: Tokenizer
    name: str
    folder: Path | None = None
    keys: Keys = field(default_factory=Keys)
    limits: Limits = Limits()
    runtime: str = "auto"
    public: bool = False
    log: str = "none"

    def __post_init__(self) -> None:
        self.store = Store(self.folder)
        self.template = Template(self.tokenizer)
        self.engine = Engine(self.model, self.tokenizer, self.limits.slots, self.limits.queue, self.runtime)
        kept = (self.limits.sessions, self.limits.memory)
        pair, quota = (self.model, self.tokenizer), self.limits.quota_bytes
        self.marks = Marks(self.store, pair, self.runtime, kept, self.template.name, quota)
        self.endings: dict[str, Callable[[Ended], None]] = {}  # what belongs to an object that has expired is dropped
        self.figures, self.writers, self.tries, self.journal = Figures(), Writers(), Tries(), Journal(self.log)
        self.closing: list[Callable[[], Coroutine[Any, Any, None]]] = []  # awaited before the engine stops
        self.tools = Tools(self.engine, self.marks, self.template, self.figures)

    def model_named(self, name: str | None) -> str:
        """The name of the model; 404 for another model."""
        if name not in (None, self.name):
            raise Problem(
                404, f"The model {ascii(name)[:80]} does not exist; this server has {self.name!r}.", "model", "model_not_found"
            )
        return self.name

    def tidy(self) -> int:
        """Forget what has expired; returns the number of objects."""
        found = self.store.expire(self.writers.busy)
        for one in found:
            if one.kind in self.endings:
                self.endings[one.kind](one)
        self.marks.age(self.limits.ttl)
        self.figures.expired.inc(len(found))
        return len(found)

    def answer(self, request: Request, prompt: Prompt, wanted: Wanted) -> Answer:
        """An answer for the key of a request. Raises Problem if there are fewer slots than texts."""
        if wanted.n > self.limits.slots:
            raise bad("n", f"n={wanted.n} is more than the {self.limits.slots} slots of this server.")
        return Answer(self.tools, owner(request), prompt, wanted, counts(request))


def owner(request: Request) -> str:
    """The name of the request's key."""
    return request.scope["state"]["owner"]


def kind(request: Request) -> str:
    """The content type, without its options."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def counts(request: Request) -> Counts:
    """What the request did so far."""
    return request.scope["state"]["counts"]


async def read_json(request: Request) -> Any:
    """The body. Raises Problem for another content type, a body that is too large, or no JSON."""
    if kind(request) != "application/json":
        raise Problem(415, "The content type must be application/json.", code="unsupported_media_type")
    return as_json(await read_body(request, MOST_BYTES))


async def read_body(request: Request, most: int) -> bytes:
    """The bytes of the body, `most` at most."""
    return b"".join([part async for part in read_parts(request, most)])


async def read_parts(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body in parts as they come. Raises Problem for more than `most` bytes, and at the deadline."""
    size, source = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout_at(until(request)):
                part = await anext(source, None)
        except TimeoutError:
            raise late() from None
        if part is None:
            return
        size += len(part)
        if size > most:
            raise Problem(413, f"The body is larger than {most:,} bytes.", code="request_too_large")
        yield part


def as_json(body: bytes) -> Any:
    """A JSON value. Raises Problem."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise bad(None, "The body is not valid JSON in UTF-8.") from None


async def once(house: House, request: Request, body: Any, make: Callable[[Try], Coroutine[Any, Any, Any]]) -> Any:
    """The answer that `make` makes, or that of the earlier request if this is a retry."""
    one = Try(house.store, request, body)

    async def made() -> Any:
        if (known := await asyncio.to_thread(one.earlier)) is not None:
            return known
        answer = await make(one)
        await asyncio.to_thread(one.keep, answer)
        return answer

    running = house.tries.earlier(one)
    if isinstance(running, asyncio.Task):
        try:
            return await while_there(request, _of(running))
        except asyncio.CancelledError:
            if not running.cancelled():
                raise  # otherwise its client has left before its end
    task = asyncio.ensure_future(made())
    house.tries.add(one, task)
    return await while_there(request, task)


async def streamed(house: House, request: Request, body: Any, make: Callable[[Try], Coroutine[Any, Any, Run]]) -> Events:
    """The events of the run that `make` begins, or those of the earlier request if this is a retry."""
    one = Try(house.store, request, body)

    async def beginning() -> Run:
        known = await asyncio.to_thread(one.earlier)
        run = Run(again(known)) if isinstance(known, list) else await make(one)
        house.tries.add(one, run)
        return run

    running = house.tries.earlier(one)
    if isinstance(running, asyncio.Task):
        try:
            return Events(await while_there(request, _of(running)))
        except Problem as error:
            if error.code != LEFT:  # of its client
                raise
    elif running is not None:
        return Events(running)
    task = asyncio.ensure_future(beginning())
    house.tries.add(one, task)
    return Events(await task)


class Asked(Protocol):
    """A request for an answer that is one object, or events once it has begun."""

    def begin(self) -> Coroutine[Any, Any, None]: ...
    def whole(self) -> Coroutine[Any, Any, dict[str, Any]]: ...
    def stream(self) -> AsyncGenerator[str, None]: ...
    def close(self) -> Coroutine[Any, Any, None]: ...


async def answered(house: House, request: Request, body: Any, streams: bool, make: Callable[[], Asked]) -> Any:
    """What `make` asks for, as events or as one object; or the answer of the earlier request if this is a retry."""

    async def whole(_: Try) -> dict[str, Any]:
        return await make().whole()

    async def stream(_: Try) -> Run:
        asked = make()
        return await begun(house, request, asked.begin(), asked.stream(), asked.close)

    return await (streamed(house, request, body, stream) if streams else once(house, request, body, whole))


async def begun(
    house: House, request: Request, begin: Coroutine[Any, Any, None], source: AsyncGenerator[str, None], close: Close
) -> Run:
    """The run of an answer after its `begin`: what fails until here has a status code."""
    try:
        await while_there(request, begin)
    except BaseException:
        await close()
        raise
    return Run(source, close, until(request), told=house.figures.problem)


def until(request: Request) -> float | None:
    """The time of the event loop at which a request must have ended."""
    return request.scope["state"]["until"]


async def while_there(request: Request, work: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
    """The result of `work`, which is cancelled if the client leaves, and at the deadline. The body must have been read."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    limit, ended = until(request), set()
    try:
        wait = None if limit is None else max(0.0, limit - asyncio.get_running_loop().time())
        ended, _ = await asyncio.wait({task, left}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (task, left):
            each.cancel()
        await asyncio.wait({task, left})  # it is complete, or has undone what it began
        _ = task.cancelled() or task.exception()  # it counts as seen
    if task.cancelled() and task not in ended:
        raise left_early() if ended else late()
    return task.result()


def found(body: dict[str, Any] | None, what: str, name: str) -> dict[str, Any]:
    """The object; 404 if there is none."""
    if body is None:
        raise missing(what, name)
    return body


async def _of(task: asyncio.Task[T]) -> T:
    """The result of a task that others wait for too."""
    return await asyncio.shield(task)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
