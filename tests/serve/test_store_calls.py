"""Each call of the store fails in turn, while a server answers: an error appends nothing, an answer is there after a power cut.

Calls are those of SQLite's connection and those of `siltstone.io` on files. `make torture` tries all; the suite tries some.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from siltstone.io import system
from siltstone.serve.house import House, Limits
from tests.torture.disk import Disk
from tests.torture.factor import FACTOR
from tests.torture.injector import CALLS

FILES = ("ENOSPC", "EIO", "short")
INDEX = ("database or disk is full", "disk I/O error", "database is locked")


class Layer:
    """Between the server and its disk: counts calls; `at` is the number of the one that fails as `fault`; None: all of them."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk, self.seen, self.at, self.fault = disk, 0, -1, ""

    def _now(self) -> bool:
        self.seen += 1
        return self.at is None or self.seen - 1 == self.at

    def arm(self, at: int | None, fault: str) -> None:
        self.seen, self.at, self.fault = 0, at, fault

    def file(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*values: Any) -> Any:
            if self._now() and self.fault in FILES:
                if self.fault != "short":
                    number = getattr(errno, self.fault)
                    if name == "close":  # which closes all the same
                        call(*values)
                    raise OSError(number, os.strerror(number))
                if name == "write":
                    values = (values[0], values[1][: max(1, len(values[1]) // 2)])
            return self.disk.do(name, call, values) if self.disk is not None else call(*values)

        return made

    def index(self) -> type[sqlite3.Connection]:
        layer = self

        class Connection(sqlite3.Connection):
            def execute(self, *given: Any) -> Any:
                if layer._now() and layer.fault in INDEX and not given[0].startswith("ROLLBACK"):
                    raise sqlite3.OperationalError(layer.fault)
                return super().execute(*given)

        return Connection


@pytest.fixture
def layered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Layer]]:
    def made(disk: Disk | None = None) -> Layer:
        layer, real = Layer(disk), sqlite3.connect
        for name in CALLS:
            monkeypatch.setattr(system, name, layer.file(name, getattr(system, name)))
        monkeypatch.setattr(sqlite3, "connect", lambda *given, **keys: real(*given, **keys | {"factory": layer.index()}))
        return layer

    yield made


def items(client: httpx2.Client, talk: str) -> list[str]:
    listed = client.get(f"/v1/conversations/{talk}/items", params={"order": "asc", "limit": 100}).json()
    return [item["content"][0]["text"] for item in listed["data"]]


def test_each_call_fails_in_turn(pair: Any, serving: Callable, tmp_path: Path, layered: Callable[..., Layer]) -> None:
    layer = layered()
    house = House(*pair, name="demo", folder=tmp_path, limits=Limits(slots=2))
    answered: list[str] = []
    with serving(house) as url, httpx2.Client(base_url=url, timeout=30) as client:
        talk = client.post("/v1/conversations", json={}).json()["id"]
        body = {"model": "demo", "max_output_tokens": 2, "conversation": talk}

        def ask(at: int | None, fault: str) -> int:
            said = f"{fault} {at} {len(answered)}"
            layer.arm(at, fault)
            got = client.post("/v1/responses", json=body | {"input": said})
            seen = layer.seen
            layer.arm(-1, "")
            assert got.status_code in (200, 503), (at, fault, got.text)
            if got.status_code == 200:
                answered.extend([said, got.json()["output"][0]["content"][0]["text"]])
            assert items(client, talk) == answered[-100:], (at, fault)
            return seen

        ask(-1, "")
        calls = ask(-1, "")
        assert calls > 10
        cases = [(at, fault) for at in range(calls) for fault in (*FILES, *INDEX)]
        most = min(len(cases), round(25 * FACTOR))
        for at, fault in sorted(random.Random(0).sample(cases, most)):
            if len(answered) > 90:
                talk, answered = client.post("/v1/conversations", json={}).json()["id"], []
                body["conversation"] = talk
            ask(at, fault)
        ask(-1, "")
        for fault in ("ENOSPC", INDEX[0]):  # a full disk, until somebody makes room
            before = len(answered)
            layer.arm(None, fault)
            got = [client.post("/v1/responses", json=body | {"input": "x"}).status_code for _ in range(3)]
            assert {*got} == {503}
            assert client.get("/health").status_code == 200 and client.get("/ready").status_code == 200
            ask(-1, "")
            assert len(answered) == before + 2
        assert house.engine.gate.free == 2
    layer.arm(-1, "")
    with serving(House(*pair, name="demo", folder=tmp_path)) as url, httpx2.Client(base_url=url, timeout=30) as client:
        assert items(client, talk) == answered


def test_what_was_answered_was_flushed(pair: Any, serving: Callable, tmp_path: Path, layered: Callable[..., Layer]) -> None:
    """The power fails behind the last answer: what of the files was not flushed is lost."""
    disk = Disk(tmp_path / "vault")
    layered(disk)
    folder, usage = tmp_path / "store", {}
    with serving(House(*pair, name="demo", folder=folder)) as url, httpx2.Client(base_url=url, timeout=30) as client:
        for i in range(3):
            body = {"model": "demo", "input": f"Of power {i}.", "max_output_tokens": 3}
            got = client.post("/v1/responses", json=body).json()
            usage[got["id"]] = got["usage"]["total_tokens"]
    disk.cut(0, False)
    with serving(House(*pair, name="demo", folder=folder)) as url, httpx2.Client(base_url=url, timeout=30) as client:
        for id, total in usage.items():
            body = {"model": "demo", "input": "And?", "max_output_tokens": 2, "previous_response_id": id}
            got = client.post("/v1/responses", json=body).json()
            assert got["usage"]["input_tokens_details"]["cached_tokens"] == total


def test_a_clock_that_jumps(pair: Any, serving: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days forwards and backwards: nothing is lost, nothing is done twice, and a retry is still known."""
    real, jump = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + jump[0])
    with serving(House(*pair, name="demo", folder=tmp_path)) as url, httpx2.Client(base_url=url, timeout=30) as client:
        talk = client.post("/v1/conversations", json={}).json()["id"]
        said, total = [], 0
        for i, days in enumerate((0, 400, -400, 3, -3, 0)):
            jump[0] = days * 86400.0
            body = {"model": "demo", "max_output_tokens": 2, "conversation": talk, "input": f"Turn {i}."}
            headers = {"Idempotency-Key": f"k{i}"}
            one = client.post("/v1/responses", json=body, headers=headers)
            jump[0] -= 30.0
            assert one.status_code == 200
            assert client.post("/v1/responses", json=body, headers=headers).json()["id"] == one.json()["id"]
            said += [f"Turn {i}.", one.json()["output"][0]["content"][0]["text"]]
            assert items(client, talk) == said
            usage = one.json()["usage"]
            assert usage["input_tokens_details"]["cached_tokens"] == total
            total = usage["total_tokens"]
