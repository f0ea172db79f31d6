"""Deadlines, times to live, and quotas of keys."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

import siltstone as st
from siltstone.errors import ServerError
from siltstone.serve.house import House, Limits

SAY: list[Any] = [{"role": "user", "content": "Tell me."}]
LONG: dict[str, Any] = {"model": "demo", "max_tokens": 100_000}


def refused(call: Callable[[], Any]) -> ServerError:
    with pytest.raises(ServerError) as error:
        call()
    return error.value


def test_a_request_ends_at_the_deadline(pair: Any, serving: Callable, connecting: Callable) -> None:
    house = House(*pair, name="demo", limits=Limits(slots=1))
    with serving(house) as url, connecting(url) as client, httpx2.Client(base_url=url, timeout=20) as raw:
        talk = client.conversations.create()
        s = st.connect(url).session()
        s.append("x")
        house.limits = replace(house.limits, deadline=0.4)
        reply = {"model": "demo", "input": "x", "conversation": talk.id, "max_output_tokens": 100_000}
        for path, body in (
            ("/v1/chat/completions", LONG | {"messages": SAY}),
            ("/v1/completions", LONG | {"prompt": "x"}),
            ("/v1/responses", reply),
            (f"/sessions/{s.id}/generate", {"max_tokens": 100_000}),
        ):
            got = raw.post(path, json=body)
            error = got.json()["error"]
            assert (got.status_code, error["code"], error["type"]) == (504, "deadline", "server_error"), path
            assert got.headers["x-should-retry"] == "false"
            last = raw.post(path, json=body | {"stream": True}).text.strip().rpartition("\n")[2]
            assert last.startswith('data: {"error"') and '"deadline"' in last
            assert house.engine.gate.free == 1
        house.limits = replace(house.limits, deadline=60)
        assert not list(client.conversations.items.list(talk.id))
        assert raw.get(f"/sessions/{s.id}").json()["position"] == s.position
        assert house.figures.late._value.get() == 8


def test_a_body_that_does_not_end(pair: Any, serving: Callable) -> None:
    house = House(*pair, name="demo", limits=Limits(deadline=0.3))
    with serving(house) as url:
        where = urlsplit(url)
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=20) as line:
            head = (
                "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
            )
            line.sendall((head + "{").encode())
            assert b" 504 " in line.recv(100)


def test_what_is_not_used_expires(pair: Any, serving: Callable, connecting: Callable, tmp_path: Path) -> None:
    house = House(*pair, name="demo", folder=tmp_path, limits=Limits(ttl=100))
    now = [time.time()]
    house.store.clock = lambda: now[0]
    with serving(house) as url, connecting(url) as client, httpx2.Client(base_url=url) as raw:
        server = st.connect(url)
        short, long = server.session(), server.session(ttl=3600)
        for s in (short, long):
            s.append("Once.")
        answer = client.responses.create(model="demo", input="x", max_output_tokens=2)
        talk = client.conversations.create(items=SAY)
        chat = client.chat.completions.create(model="demo", messages=SAY, max_tokens=2, store=True)
        shown = raw.get(f"/sessions/{short.id}").json()
        assert shown["ttl"] == 100 and 90 < shown["expires_at"] - now[0] < 110
        files = len(list((tmp_path / "blobs").iterdir()))
        now[0] += 60
        short.append("Twice.")  # its time begins anew
        now[0] += 60
        short.append("Again.")
        for known in (False, True):  # before and after what belonged to them was dropped
            for path in (f"/v1/responses/{answer.id}", f"/v1/conversations/{talk.id}", f"/v1/chat/completions/{chat.id}"):
                got = raw.get(path)
                assert (got.status_code, got.json()["error"]["code"]) == (410, "expired"), path
            assert known or house.tidy() == 3
        now[0] += 110
        error = refused(lambda: short.append("Late."))
        assert (error.status, error.code) == (410, "expired") and "has expired" in str(error)
        with pytest.raises(openai.APIStatusError) as gone:
            client.responses.create(model="demo", input="x", previous_response_id=answer.id)
        assert gone.value.status_code == 410
        assert [s.id for s in server.sessions()] == [long.id]
        assert house.tidy() == 1 and not house.store.items("local", talk.id)
        assert len(list((tmp_path / "blobs").iterdir())) < files and long.fork().position == long.position
        assert house.tidy() == 0


def test_a_session_in_use_does_not_expire(pair: Any) -> None:
    house = House(*pair, name="demo")
    house.store.put("session", "local", "a", {"head": None, "marks": {}}, -1.0)
    with house.writers.alone("a"):
        assert house.tidy() == 0
    assert house.tidy() == 1


def test_names_of_used_marks_do_not_grow(pair: Any, serving: Callable, connecting: Callable) -> None:
    """Without a time to live nothing needs them."""
    house = House(*pair, name="demo")
    with serving(house) as url, connecting(url) as client:
        first = client.responses.create(model="demo", input="One.", max_output_tokens=2)
        client.responses.create(model="demo", input="Two.", previous_response_id=first.id, max_output_tokens=2)
        assert house.marks._used
        assert house.tidy() == 0 and not house.marks._used


@pytest.mark.parametrize("stored", [False, True])
def test_a_quota_of_sessions_and_bytes(pair: Any, serving: Callable, connecting: Callable, tmp_path: Path, stored: bool) -> None:
    probe = st.Session(*pair)
    probe.append("x" * 40)
    limits = Limits(quota_sessions=3, quota_bytes=int(2.5 * probe.nbytes))
    house = House(*pair, name="demo", folder=tmp_path if stored else None, limits=limits)
    with serving(house) as url, connecting(url) as client:
        server = st.connect(url)
        one, two = server.session(), server.session()
        three = server.session()
        error = refused(server.session)
        assert (error.status, error.code) == (403, "quota_exceeded") and "3 sessions" in str(error)
        three.delete()
        one.append("x" * 40)
        two.append("y" * 40)
        mark = two.snapshot()
        more = refused(lambda: two.append("z" * 40))
        assert (more.status, more.code) == (403, "quota_exceeded") and "bytes" in str(more)
        assert refused(lambda: list(two.generate(3))).code == "quota_exceeded"
        assert server.sessions()[0].position == two.position
        two.rollback(mark)
        for i in range(5):  # conversations go on; what they have read is forgotten
            client.chat.completions.create(model="demo", messages=[{"role": "user", "content": f"{i}"}], max_tokens=2)
        assert house.store.used("local") < limits.quota_bytes + 2 * probe.nbytes
        two.delete()
        one.append("z")
        assert house.figures.over._value.get() == 3
