"""Lines of requests, their figures, and the bound of memory."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

import siltstone as st
from siltstone.serve.house import House, Limits
from siltstone.serve.journal import HELD, Journal
from siltstone.serve.keys import Keys
from tests.serve.test_doors import key_file

SECRET = "q-secret-z"


def lines(read: int) -> list[str]:
    with open(read, "rb") as file:
        return file.read().decode("ascii").splitlines()


@pytest.mark.parametrize("form", ["json", "plain"])
def test_one_line_a_request_without_text(pair: Any, serving: Callable, tmp_path: Path, form: str) -> None:
    read, write = os.pipe()
    house = House(*pair, name="demo", keys=Keys.read(key_file(tmp_path, "alice")), limits=Limits(slots=1))
    house.journal = Journal(form, write)
    with serving(house) as url, httpx2.Client(base_url=url, headers={"Authorization": "Bearer alice"}, timeout=20) as raw:
        say = {"model": "demo", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3, "user": SECRET}
        usage = raw.post("/v1/chat/completions", json=say).json()["usage"]
        streamed = raw.post("/v1/chat/completions", json=say | {"stream": True})
        reply = raw.post(
            "/v1/responses", json={"model": "demo", "input": SECRET, "background": True, "max_output_tokens": 2}
        ).json()
        while raw.get(f"/v1/responses/{reply['id']}").json()["status"] in ("queued", "in_progress"):
            time.sleep(0.02)
        id = raw.post("/sessions", json={"tags": {"a": SECRET}}).json()["id"]
        raw.post(f"/sessions/{id}/append", json={"text": SECRET})
        raw.get(f"/{SECRET}?{SECRET}")
        raw.post(f"/v1/chat/completions?{SECRET}", json={SECRET: 1})
        raw.get("/health", headers={"Authorization": SECRET})
        metrics = raw.get("/metrics").text
        figures = raw.get("/figures").json()["figures"]
    os.close(write)
    found = lines(read)
    assert not [x for x in (SECRET, id, reply["id"], "Bearer") if x in "\n".join(found) or x in metrics]
    samples = {
        (s.name, s.labels.get("route"), s.labels.get("status")): s.value
        for f in text_string_to_metric_families(metrics)
        for s in f.samples
        if "le" not in s.labels
    }
    assert samples["siltstone_requests_total", "/v1/chat/completions", "200"] == 2
    assert samples["siltstone_requests_total", "/sessions/{id}/append", "200"] == 1
    assert samples["siltstone_requests_total", "-", "404"] == 1
    assert samples["siltstone_wait_seconds_count", None, None] == 4 and samples["siltstone_slots_free", None, None] == 1
    assert samples["siltstone_bytes_on_disk", None, None] == 0 and figures["tokens read"] > 0
    if form == "plain":
        assert f"read={usage['prompt_tokens']}" in found[0] and "route=/v1/chat/completions status=200" in found[0]
        return
    told = [json.loads(line) for line in found]
    one, two = told[:2]
    assert (one["read"], one["reused"], one["written"]) == (usage["prompt_tokens"], 0, 3) and one["key"] == "alice"
    assert two["reused"] > 0 and two["complete"] and two["request"] == streamed.headers["x-request-id"] != one["request"]
    (background,) = [x for x in told if x["route"] == "background"]
    assert (background["status"], background["written"]) == ("incomplete", 2)
    assert {(x["route"], x["status"]) for x in told if "method" in x} >= {
        ("/v1/responses/{id}", 200), ("/sessions", 200), ("-", 404), ("/v1/chat/completions", 400), ("/health", 200)
    }  # fmt: skip


def test_a_reader_that_is_gone_delays_nobody() -> None:
    read, write = os.pipe()
    journal = Journal("json", write)
    began = time.monotonic()
    for _ in range(3 * HELD):
        journal.add({"a": "x" * 1000})
    assert time.monotonic() - began < 5 and journal.lost > HELD / 2
    journal.close(0.05)
    os.close(read)  # the thread, which waits, sees an error and goes on
    journal.close(5)
    os.close(write)
    Journal().add({"a": 1})
    assert "siltstone-journal" not in [t.name for t in threading.enumerate() if t is journal._thread and t.is_alive()]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_kept_sessions_are_parked_the_least_recently_used_first(pair: Any, tmp_path: Path) -> None:
    house = House(*pair, name="demo", folder=tmp_path)
    s = st.Session(*pair)
    s.append("Once upon a time. " * 40)
    one = s.nbytes
    house.marks.memory = 4 * one + one // 2
    ids = [house.marks.keep("local", "session", "", s.fork(), True) for _ in range(4)]

    def fork(id: str) -> None:
        row = house.store.mark(id, "local")
        assert row is not None and house.marks.fork(row) is not None

    fork(ids[0])
    ids.append(house.marks.keep("local", "session", "", s.fork(), True))
    assert list(house.marks._held) == [ids[2], ids[3], ids[0], ids[4]] and house.marks.parked == 1
    fork(ids[1])  # it comes back from its file
    assert list(house.marks._held) == [ids[3], ids[0], ids[4], ids[1]] and (house.marks.parked, house.marks.woken) == (2, 1)


def test_memory_is_bounded(pair: Any, tmp_path: Path) -> None:
    """Many times as many sessions as fit: the process grows by what fits, and the rest comes back."""
    house = House(*pair, name="demo", folder=tmp_path)
    s = st.Session(*pair)
    s.append("Once upon a time there was a ship. " * 30)
    house.marks.memory = limit = 4 * s.nbytes
    ids: list[str] = []

    def more(count: int) -> None:
        for _ in range(count):
            twin = s.fork()
            twin.append(f" {len(ids)}")  # state of its own
            ids.append(house.marks.keep("local", "session", "", twin, True))
            assert house.marks.nbytes <= limit

    more(8)
    start = resident()
    more(40)
    assert resident() - start < 20 * s.nbytes  # 40 sessions would be twice as much
    for id in ids[::7]:
        row = house.store.mark(id, "local")
        assert row is not None and house.marks.fork(row) is not None and house.marks.nbytes <= limit
