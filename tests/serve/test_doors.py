"""Keys, the queue, clients that leave, and the command."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from siltstone.errors import ConfigError
from siltstone.serve.engine import Gate
from siltstone.serve.fields import Chat, Completion, Response
from siltstone.serve.house import House, Limits
from siltstone.serve.keys import Keys
from siltstone.serve.problem import Problem
from siltstone.serve.run import check_public, is_public, serve
from tests.cli.commands import siltstone

ROOT = Path(__file__).resolve().parents[2]
SAY: list[Any] = [{"role": "user", "content": "Tell me of the sea."}]


def key_file(folder: Path, *keys: str) -> Path:
    path = folder / "keys"
    lines = [f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in keys]
    path.write_text("# keys\n\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def test_the_address_accepts_clients_when_it_is_told() -> None:
    class Enough(Exception):
        pass

    def ready(url: str) -> None:
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 5).close()
        raise Enough

    with pytest.raises(Enough):
        serve(SimpleNamespace(keys=()), "127.0.0.1", 0, ready)  # type: ignore[arg-type]


def test_a_key_sees_its_own_things_alone(pair: Any, serving: Callable, connecting: Callable, tmp_path: Path) -> None:
    house = House(*pair, name="demo", keys=Keys.read(key_file(tmp_path, "alice", "bob")))
    with serving(house) as url, connecting(url, "alice") as alice, connecting(url, "bob") as bob:
        keys: dict[str, Any] = {"model": "demo", "messages": SAY, "max_tokens": 5, "store": True}
        got = alice.chat.completions.create(**keys)
        assert alice.chat.completions.create(**keys).usage.prompt_tokens_details.cached_tokens
        assert not bob.chat.completions.create(**keys).usage.prompt_tokens_details.cached_tokens
        for ask in (bob.chat.completions.retrieve, bob.chat.completions.delete, bob.chat.completions.messages.list):
            with pytest.raises(openai.NotFoundError):
                ask(got.id)
        assert alice.chat.completions.retrieve(got.id).id == got.id
        for wrong in ("carol", "", "bob "):
            with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {wrong}x"}) as stranger:
                refused = stranger.get("/v1/models")
                assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(f"{url}/health").status_code == 200 and httpx2.get(f"{url}/v1/models").status_code == 401


@pytest.mark.parametrize("line", ["secret", "alice secret", "local sha256:" + "0" * 64, "", "a sha256:" + "0" * 63])
def test_a_file_of_keys_that_is_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(line, "utf-8")
    with pytest.raises(ConfigError) as error:
        Keys.read(tmp_path / "keys")
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.read(tmp_path / "none")


def test_a_public_address_needs_keys() -> None:
    assert [is_public(host) for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9")] == [False] * 5
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com"):
        with pytest.raises(ConfigError, match="--api-key-file"):
            check_public(host, False)
        check_public(host, True)


def test_the_gate_is_fair_and_bounded() -> None:
    async def run() -> None:
        gate, order = Gate(2, 3), []

        async def use(name: str, slots: int) -> None:
            await gate.take(slots)
            order.append(name)
            await asyncio.sleep(0.01)
            gate.give(slots)

        a, b, c, d = (asyncio.ensure_future(use(name, slots)) for name, slots in (("a", 1), ("b", 2), ("c", 1), ("d", 1)))
        await asyncio.sleep(0)
        assert order == ["a"] and len(gate.waiting) == 3  # b waits for both slots, and c does not pass it
        with pytest.raises(Problem) as refused:
            await gate.take(1)
        assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "1"}
        b.cancel()
        await asyncio.gather(a, c, d)
        assert order == ["a", "c", "d"] and gate.free == 2 and not gate.waiting

    asyncio.run(run())


def test_a_full_queue_is_429_and_a_client_that_leaves_frees_its_slot(pair: Any, serving: Callable, connecting: Callable) -> None:
    house = House(*pair, name="demo", limits=Limits(slots=1, queue=0))
    keys: dict[str, Any] = {"model": "demo", "messages": SAY, "temperature": 0}
    with serving(house) as url, connecting(url) as client:
        stream = client.chat.completions.create(**keys, max_tokens=100_000, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(**keys, max_tokens=4)
        assert refused.value.response.headers["retry-after"] == "1"
        stream.close()
        _until(lambda: house.engine.gate.free == 1)
        with pytest.raises(httpx2.ReadTimeout):  # a client that does not stream leaves too
            httpx2.post(f"{url}/v1/chat/completions", json=keys | {"max_tokens": 100_000}, timeout=0.3)
        _until(lambda: house.engine.gate.free == 1 and not len(house.engine.batch))
        assert client.chat.completions.create(**keys, max_tokens=4).usage.completion_tokens == 4


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_clients_that_leave_at_any_moment_leave_nothing(
    pair: Any, serving: Callable, monkeypatch: pytest.MonkeyPatch, slow: bool, path: str
) -> None:
    house, chance = House(*pair, name="demo", limits=Limits(slots=2)), random.Random(0)
    join = house.engine.batch.join
    if slow:
        monkeypatch.setattr(house.engine.batch, "join", lambda session: (time.sleep(0.05), join(session))[1])
    given = {"model": "demo", "messages": SAY, "prompt": "x", "input": "x", "max_tokens": 5000, "max_output_tokens": 5000}
    kind = {"chat/completions": Chat, "completions": Completion, "responses": Response}[path]
    with serving(house) as url:
        where = urlsplit(url)
        for turn in range(16):
            body = {name: x for name, x in given.items() if name in kind.model_fields} | {"stream": turn % 2 == 0}
            text = json.dumps(body)
            with socket.create_connection((where.hostname or "", where.port or 0)) as line:
                head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                line.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
                time.sleep(chance.choice([0, 0.005, 0.02, 0.08]))
        _until(lambda: house.engine.gate.free == 2 and not len(house.engine.batch) and not house.engine._watches)
        assert httpx2.post(f"{url}/v1/completions", json={"model": "demo", "prompt": "x", "n": 2}).status_code == 200


def test_many_at_once_answer_as_alone(client: openai.OpenAI) -> None:
    def ask(i: int) -> str:
        messages: list[Any] = [{"role": "user", "content": f"Number {i}. " * (1 + 20 * (i % 3))}]
        got = client.chat.completions.create(model="demo", messages=messages, max_tokens=6, temperature=0)
        return got.choices[0].message.content or ""

    found: dict[int, str] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: ask(i)})) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 12 and all(ask(i) == text for i, text in found.items())


def test_the_command_serves_a_frozen_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request asks whether the weights are as they were: a frozen model's are not read in full for that."""
    found: list[House] = []
    monkeypatch.setattr("siltstone.serve.run.serve", lambda house, *given: found.append(house))
    assert siltstone("serve", "demo").exit_code == 0
    assert all(weight.is_inference() for weight in found[0].model.parameters())


def test_the_command_serves_and_stops(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "siltstone", "serve", "demo", "--port", "0", "--store", str(tmp_path / "store")]
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            url = re.search(r"http://[\d.]+:\d+", said)
            assert url is not None, said
            _until(lambda: _status(f"{url[0]}/ready") == 200)
            got = httpx2.post(f"{url[0]}/v1/completions", json={"model": "demo", "prompt": "The sea", "max_tokens": 3})
            assert json.loads(got.text)["usage"]["completion_tokens"] == 3
            with httpx2.Client(base_url=url[0]) as client:  # with Nagle's algorithm, each answer on a kept connection takes 40 ms
                took = [client.get("/health").elapsed.total_seconds() for _ in range(60)]
                assert min(took[40:]) < 0.03
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def _status(url: str) -> int:
    try:
        return httpx2.get(url).status_code
    except httpx2.ConnectError:
        return 0


def _until(met: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not met():
        assert time.monotonic() < until
        time.sleep(0.02)
