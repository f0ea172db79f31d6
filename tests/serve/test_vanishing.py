"""Clients that are slow, and those that vanish: halfway through a request, or through an answer. Others do not notice."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2

from siltstone.serve.house import House, Limits


def request(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def test_slow_and_vanishing_clients_leave_nothing_behind(pair: Any, serving: Callable) -> None:
    house = House(*pair, name="demo", limits=Limits(slots=4, queue=50))
    with serving(house) as url, httpx2.Client(base_url=url, timeout=30) as client:
        where = ("127.0.0.1", urlsplit(url).port or 0)
        talk = client.post("/v1/conversations", json={}).json()["id"]
        session = client.post("/sessions", json={}).json()["id"]
        long = {"model": "demo", "messages": [{"role": "user", "content": "Go on."}], "max_tokens": 3000}
        respond = {"model": "demo", "input": "Of leaving.", "conversation": talk, "max_output_tokens": 3000}
        wanted = [
            request("/v1/chat/completions", long),
            request("/v1/chat/completions", long | {"stream": True, "n": 2}),
            request("/v1/responses", respond | {"stream": True}),
            request("/v1/responses", respond | {"store": False}),
            request(f"/sessions/{session}/append", {"text": "A long text. " * 2000}),
            request(f"/sessions/{session}/generate", {"max_tokens": 3000, "stream": True}),
        ]
        for whole in wanted:
            for part in (10, len(whole) // 2, len(whole) - 1, len(whole)):
                for hard in (True, False):
                    line = socket.create_connection(where, 5)
                    line.sendall(whole[:part])
                    if part == len(whole):
                        time.sleep(0.05)
                    if hard:  # a reset, instead of an end
                        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    line.close()
        slow = [socket.create_connection(where, 5) for _ in range(20)]
        for line, whole in zip(slow, wanted * 4, strict=False):
            line.sendall(whole[: len(whole) - 1])  # the last byte does not come
        until = time.monotonic() + 20
        while house.engine.gate.free < 4 and time.monotonic() < until:
            time.sleep(0.05)
        assert house.engine.gate.free == 4 and not len(house.engine.batch)
        assert client.post("/v1/chat/completions", json=long | {"max_tokens": 3}).status_code == 200
        assert client.get(f"/v1/conversations/{talk}/items").json()["data"] == []
        assert client.get(f"/sessions/{session}").json()["position"] == 0
        got = client.post("/v1/responses", json=respond | {"max_output_tokens": 3})
        assert got.status_code == 200 and len(client.get(f"/v1/conversations/{talk}/items").json()["data"]) == 2
        for line, whole in zip(slow, wanted * 4, strict=False):
            if b"/append" in whole[:60]:
                line.sendall(whole[-1:])
                assert line.recv(100).startswith(b"HTTP/1.1 ")
                break
        for line in slow:
            line.close()


def test_clients_that_stream_without_reading_hold_no_slot(pair: Any, serving: Callable) -> None:
    """Their events wait for them; others are answered meanwhile, and a stream is whole when it is read at last."""
    house = House(*pair, name="demo", limits=Limits(slots=2, queue=50))
    body = {"model": "demo", "messages": [{"role": "user", "content": "Go on."}], "max_tokens": 300, "stream": True, "seed": 1}
    whole = request("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 20})
    with serving(house) as url, httpx2.Client(base_url=url, timeout=30) as client:
        where, lines = ("127.0.0.1", urlsplit(url).port or 0), []
        for _ in range(4):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(where)
            line.sendall(whole)
            lines.append(line)
        short = body | {"max_tokens": 3, "stream": False}
        assert all(client.post("/v1/chat/completions", json=short).status_code == 200 for _ in range(3))
        until = time.monotonic() + 30
        while house.engine.gate.free < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert house.engine.gate.free == 2 and not len(house.engine.batch)  # nobody has read anything
        lines[0].settimeout(20)
        got = b""
        while b"[DONE]" not in got:
            part = lines[0].recv(1 << 16)
            assert part
            got += part
        assert got.count(b"data: ") > 300
        for line in lines:
            line.close()
