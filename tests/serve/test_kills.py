"""A server that is killed at a random instant under load: conversations and sessions have all that was acknowledged, and no more
than one turn beyond it. SILTSTONE_KILLS is the number of kills."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from siltstone.serve.house import House
from tests.serve.test_faults import process

Told = dict[str, list[str]]


def converse(url: str, number: int, told: Told) -> None:
    """Turns of a conversation until the server is gone; what was acknowledged is noted."""
    with httpx2.Client(base_url=url, timeout=20) as client:
        talk = client.post("/v1/conversations", json={}).json()["id"]
        told[talk] = []
        for turn in range(100_000):
            body = {"model": "demo", "input": f"User {number}, turn {turn}.", "max_output_tokens": 3, "conversation": talk}
            got = client.post("/v1/responses", json=body)
            assert got.status_code == 200, got.text
            told[talk] += [body["input"], got.json()["output"][0]["content"][0]["text"]]


def keep(url: str, number: int, told: Told) -> None:
    """Appends to a session until the server is gone; the positions that were acknowledged are noted."""
    with httpx2.Client(base_url=url, timeout=20) as client:
        id = client.post("/sessions", json={"tags": {"of": str(number)}}).json()["id"]
        told[id] = ["0"]
        while True:
            got = client.post(f"/sessions/{id}/append", json={"text": "one two three four. "})
            assert got.status_code == 200, got.text
            told[id].append(str(got.json()["position"]))


@pytest.mark.parametrize("seed", range(int(os.environ.get("SILTSTONE_KILLS", "1"))))
def test_a_kill_loses_nothing_acknowledged(pair: Any, serving: Any, tmp_path: Path, seed: int) -> None:
    told: Told = {}

    def user(work: Any, url: str, number: int) -> None:
        try:
            work(url, number, told)
        except httpx2.HTTPError:
            return  # the server is gone

    with process(tmp_path) as (url, running):
        threads = [threading.Thread(target=user, args=(work, url, i)) for i, work in enumerate([converse, keep] * 2)]
        with httpx2.Client(base_url=url, timeout=5) as client:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                try:
                    if client.get("/ready").status_code == 200:
                        break
                except httpx2.HTTPError:
                    time.sleep(0.05)
        for thread in threads:
            thread.start()
        while (len(told) < 4 or min(map(len, told.values())) < 2) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(random.Random(seed).random())
        os.kill(running.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    assert len(told) == 4 and min(map(len, told.values())) >= 2
    with serving(House(*pair, name="demo", folder=tmp_path)) as url, httpx2.Client(base_url=url, timeout=30) as client:
        for id, heard in told.items():
            if id.startswith("conv_"):
                found: list[str] = []
                after = None
                while after is None or after:
                    keys = {"order": "asc", "limit": "100"} | ({"after": after} if after else {})
                    page = client.get(f"/v1/conversations/{id}/items", params=keys).json()
                    found += [item["content"][0]["text"] for item in page["data"]]
                    after = page["last_id"] if page["has_more"] else ""
                assert found[: len(heard)] == heard and len(found) - len(heard) in (0, 2)
                body = {"model": "demo", "input": "More.", "max_output_tokens": 2, "conversation": id}
                assert client.post("/v1/responses", json=body).json()["usage"]["input_tokens_details"]["cached_tokens"] > 0
            else:
                step = int(heard[1])
                position = client.get(f"/sessions/{id}").json()["position"]
                assert position - int(heard[-1]) in (0, step), (position, heard[-1])
                assert client.post(f"/sessions/{id}/append", json={"text": "more"}).json()["position"] > position
