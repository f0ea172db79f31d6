"""A server that is killed has everything that it acknowledged; sessions of many users do not mix."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from siltstone.serve.house import House, Limits

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def process(store: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of its own, which is killed at the end."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "siltstone", "serve", "demo", "--port", "0", "--store", str(store)]
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            url = re.search(r"http://[\d.]+:\d+", running.stderr.readline())
            assert url is not None
            yield url[0], running
        finally:
            running.kill()


def load(url: str, acknowledged: dict[str, str], number: int) -> None:
    """Conversations until the server is gone; what it has answered is noted."""
    last = None
    with httpx2.Client(base_url=url, timeout=20) as client:
        while True:
            body = {"model": "demo", "input": f"User {number}.", "max_output_tokens": 3, "previous_response_id": last}
            try:
                got = client.post("/v1/responses", json=body)
            except httpx2.HTTPError:
                if acknowledged and number >= 0:
                    return
                time.sleep(0.05)  # it has not begun
                continue
            assert got.status_code == 200, got.text
            last = got.json()["id"]
            acknowledged[last] = json.dumps(got.json()["output"])


@pytest.mark.parametrize("seed", range(int(os.environ.get("SILTSTONE_KILLS", "1"))))
def test_what_was_acknowledged_survives_a_kill(pair: Any, serving: Callable, tmp_path: Path, seed: int) -> None:
    acknowledged: dict[str, str] = {}
    with process(tmp_path) as (url, running):
        threads = [threading.Thread(target=load, args=(url, acknowledged, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 30
        while len(acknowledged) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(random.Random(seed).random() / 2)
        os.kill(running.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    assert len(acknowledged) >= 4
    house = House(*pair, name="demo", folder=tmp_path)
    named = {f"{row.blob}.silt" for item in house.store.do("SELECT id FROM marks") if (row := house.store.mark(*item, "local"))}
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == named
    held = {f"{row[0]}.page" for row in house.store.do("SELECT page FROM holds")}
    assert {path.name for path in (tmp_path / "pages").iterdir()} == held
    with serving(house) as url, httpx2.Client(base_url=url, timeout=20) as client:
        for id, output in acknowledged.items():
            assert json.dumps(client.get(f"/v1/responses/{id}").json()["output"]) == output
        for id in list(acknowledged)[-4:]:
            body = {"model": "demo", "input": "More.", "max_output_tokens": 2, "previous_response_id": id}
            usage = client.get(f"/v1/responses/{id}").json()["usage"]
            got = client.post("/v1/responses", json=body).json()["usage"]
            assert got["input_tokens_details"]["cached_tokens"] == usage["total_tokens"]


def test_users_do_not_mix(pair: Any, serving: Callable, connecting: Callable) -> None:
    """Users with secrets talk, abort and branch at random; each greedy transcript is that of the user alone, and has no other
    secret."""
    users = 12

    def script(client: Any, number: int, rough: bool) -> list[str]:
        chance = random.Random(number)
        messages: list[Any] = [{"role": "system", "content": f"The word of user {number} is q{number * 7919:06d}z."}]
        said = []
        for turn in range(3):
            messages.append(
                {"role": "user", "content": f"{chance.choice(['Say', 'Tell'])} {turn}: " + "it. " * chance.randint(1, 30)}
            )
            keys: dict[str, Any] = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 6}
            n, aborts = chance.choice([1, 2]), chance.random() < 0.5
            if rough and aborts:
                stream = client.chat.completions.create(**keys | {"max_tokens": 500}, stream=True)
                next(iter(stream))
                stream.close()
            got = client.chat.completions.create(**keys, n=n)
            said.append(got.choices[0].message.content)
            messages.append({"role": "assistant", "content": said[-1]})
        return said

    found: dict[int, list[str]] = {}
    house = House(*pair, name="demo", limits=Limits(slots=8, queue=100))
    with serving(house) as url, connecting(url) as client:
        threads = [threading.Thread(target=lambda i=i: found.update({i: script(client, i, True)})) for i in range(users)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    with serving(House(*pair, name="demo")) as url, connecting(url) as client:
        alone = {i: script(client, i, False) for i in range(users)}
    assert found.keys() == alone.keys()
    for i, said in found.items():
        assert not [j for j in range(users) if j != i and f"q{j * 7919:06d}z" in "".join(said)]
    assert sum(found[i] == alone[i] for i in range(users)) >= users - 1  # near-ties may fall the other way in a batch
