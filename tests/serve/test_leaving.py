"""A client that leaves frees its slot at once, whatever its request does at that moment."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from siltstone.inference.work import Reading, Writing
from siltstone.serve.engine import Engine
from siltstone.serve.house import House, Limits

LONG = "The ship sailed on, and nobody knew where it went. " * 2500  # takes many turns to read
SOON = 20.0  # seconds; a text of 100,000 tokens takes minutes
ENDLESS: dict[str, Any] = {"model": "demo", "max_tokens": 100_000}


class Task:
    """A work without a model."""

    done, error, pieces = False, None, ()


@pytest.mark.parametrize("steps", range(8))
def test_a_cancellation_that_comes_with_news_is_heard(steps: int) -> None:
    """News wake whoever waits in some rounds of the event loop; a cancellation may come in each of them."""

    async def run() -> None:
        engine: Any = object.__new__(Engine)
        engine._watches, engine._check = set(), lambda: None
        waiting = asyncio.ensure_future(Engine.done(engine, Task()))  # type: ignore[arg-type]
        for _ in range(4):
            await asyncio.sleep(0)
        (watch,) = engine._watches
        watch.event.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=1)
        assert waiting.cancelled() and not engine._watches

    asyncio.run(run())


@contextmanager
def asked(url: str, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A request on a line of its own; the client leaves at the end."""
    where, text = urlsplit(url), json.dumps(body)
    with socket.create_connection((where.hostname or "", where.port or 0)) as line:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        line.sendall((head + text).encode())
        yield line


def soon(met: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + SOON
    while not met():
        assert time.monotonic() < until, what
        time.sleep(0.005)


@pytest.fixture(scope="module")
def narrow(pair: Any) -> House:
    return House(*pair, name="demo", limits=Limits(slots=1))


@pytest.fixture(scope="module")
def site(narrow: House, serving: Callable) -> Iterator[str]:
    with serving(narrow) as url:
        yield url


CHAT, RESPONSE = "/v1/chat/completions", "/v1/responses"
BODIES = {
    CHAT: ENDLESS | {"messages": [{"role": "user", "content": "Go on."}]},
    "/v1/completions": ENDLESS | {"prompt": "Go on."},
    RESPONSE: {"model": "demo", "input": "Go on.", "max_output_tokens": 100_000},
    "generate": ENDLESS | {"model": None},
}
LONGER = {
    CHAT: {"messages": [{"role": "user", "content": LONG}]},
    "/v1/completions": {"prompt": LONG},
    RESPONSE: {"input": LONG},
    "append": {"text": LONG},
    "score": {"text": LONG},
}


def place(site: str, path: str) -> str:
    """The path of a request; that of a session has a new one."""
    if path.startswith("/"):
        return path
    id = httpx2.post(f"{site}/sessions", json={}).json()["id"]
    httpx2.post(f"{site}/sessions/{id}/append", json={"text": "x"})
    return f"/sessions/{id}/{path}"


def works(house: House) -> list[Any]:
    """What is first in the queues of the batch."""
    return [work for seat in list(house.engine.batch._turns.seats.values()) for work in list(seat.queue)[:1]]


def free(house: House) -> bool:
    engine = house.engine
    return engine.gate.free == 1 and not engine.gate.waiting and not len(engine.batch) and not engine._watches


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", BODIES)
def test_while_it_is_written_to(narrow: House, site: str, path: str, stream: bool) -> None:
    where = place(site, path)
    with asked(site, where, BODIES[path] | {"stream": stream}) as line:
        soon(lambda: any(isinstance(work, Writing) and work.tokens for work in works(narrow)), "it writes")
        if stream:
            line.recv(1)
    soon(lambda: free(narrow), "the slot is free again")


@pytest.mark.parametrize("path", LONGER)
def test_while_it_is_read(narrow: House, site: str, path: str) -> None:
    where = place(site, path)
    read = narrow.figures.read._value.get()
    with asked(site, where, BODIES.get(path, {}) | LONGER[path]):
        soon(lambda: any(isinstance(work, Reading) and work.at > 300 for work in works(narrow)), "it reads")
    soon(lambda: free(narrow), "the slot is free again")
    assert narrow.figures.read._value.get() == read


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", BODIES)
def test_while_it_waits(narrow: House, site: str, path: str, stream: bool) -> None:
    where = place(site, path)
    with asked(site, CHAT, BODIES[CHAT]):
        soon(lambda: len(narrow.engine.batch) == 1, "another one runs")
        with asked(site, where, BODIES[path] | {"stream": stream}):
            soon(lambda: len(narrow.engine.gate.waiting) == 1, "it waits")
        soon(lambda: not narrow.engine.gate.waiting, "its place is free")
        assert len(narrow.engine.batch) == 1
    soon(lambda: free(narrow), "the slot is free again")


def test_with_half_a_body(narrow: House, site: str) -> None:
    """A client that leaves before its request is complete is no error of the server."""
    errors = narrow.figures.errors._value.get()
    where = urlsplit(site)
    with socket.create_connection((where.hostname or "", where.port or 0)) as line:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        line.sendall((head + "{").encode())
        time.sleep(0.05)
    with openai.OpenAI(base_url=f"{site}/v1", api_key="none", max_retries=0) as client:
        assert client.chat.completions.create(model="demo", messages=BODIES[CHAT]["messages"], max_tokens=2).usage
    assert narrow.figures.errors._value.get() == errors
