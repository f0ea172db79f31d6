"""Servers of the shipped model on a free port of this machine, and clients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest
import uvicorn

import siltstone as st
from siltstone.serve.app import make_app
from siltstone.serve.house import House


class Quick(uvicorn.Server):
    """Sees within a hundredth of a second that it should stop."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


@contextmanager
def served(house: House) -> Iterator[str]:
    """The address of a house while it is served."""
    server = Quick(uvicorn.Config(make_app(house), port=0, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def pair() -> tuple[Any, Any]:
    """The shipped model and its tokenizer."""
    return st.load(st.demo_run())


@pytest.fixture(scope="module")
def house(pair: tuple[Any, Any]) -> House:
    return House(*pair, name="demo")


@pytest.fixture(scope="module")
def url(house: House) -> Iterator[str]:
    with served(house) as found:
        yield found


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with connected(url) as found:
        yield found


@contextmanager
def connected(url: str, key: str = "none") -> Iterator[openai.OpenAI]:
    """An unmodified client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30) as found:
        yield found


@pytest.fixture(scope="module")
def raw(url: str) -> Iterator[httpx2.Client]:
    """Plain HTTP."""
    with httpx2.Client(base_url=url, timeout=30) as found:
        yield found


@pytest.fixture(scope="session")
def serving() -> Callable[[House], Any]:
    return served


@pytest.fixture(scope="session")
def connecting() -> Callable[..., Any]:
    return connected
