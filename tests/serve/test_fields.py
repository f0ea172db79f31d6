"""The table of fields in the documentation is that of the code; strange requests are never an error of the server."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import httpx2

from siltstone.serve import fields
from siltstone.serve.schema import BODIES

PAGE = (Path(__file__).resolve().parents[2] / "docs/serving.md").read_text("utf-8")
KINDS = {"chat/completions": fields.Chat, "completions": fields.Completion, "responses": fields.Response}
OTHERS = {path: kind for path, kind in BODIES.items() if kind is not None}


def test_the_page_names_every_field() -> None:
    every = {f"/v1/{path}": kind for path, kind in KINDS.items()} | OTHERS
    for path, kind in every.items():
        (row,) = re.findall(rf"^\| `{re.escape(path)}` \| (`.*) \|$", PAGE.split("## Fields")[1], re.M)
        cells = [re.findall(r"`(\w+)`", cell) for cell in row.split("|")]
        ignored, refused = fields.IGNORED.get(kind, frozenset()), fields.REFUSED.get(kind, {})
        assert cells == [sorted(kind.model_fields), sorted(ignored), sorted(refused)], path
        assert not ignored & kind.model_fields.keys() and not refused.keys() & kind.model_fields.keys()


def test_every_route_with_a_body_is_in_the_table(raw: httpx2.Client) -> None:
    bare = {"/sessions/upload", "/sessions/{id}/fork", "/sessions/{id}/mark", "/v1/responses/{id}/cancel"}  # no fields
    posts = {path for path, found in raw.get("/openapi.json").json()["paths"].items() if "post" in found}
    assert posts == {f"/v1/{path}" for path in KINDS} | OTHERS.keys() | bare


SAY = [{"role": "user", "content": "x"}]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2**63, 1e308, 0.5, "", "demo", "\ud800", "\0", "x" * 1000, "../../etc/passwd"),
    *([], {}, [[]], [{}], [None], {"": 1}, [0], [[0, 1]], ["a"], [10**9], [{"role": "user"}], SAY),
    *({"id": "conv_x"}, {"include_usage": True}, {"a": "b"}, [{"type": "item_reference", "id": "x"}]),
    [{"role": "user", "content": [{"type": "text", "text": 1}]}],
]
GOOD: dict[str, Any] = (
    {"messages": SAY, "items": SAY} | dict.fromkeys(("prompt", "input", "text", "mark"), "x") | {"model": "demo"}
)


def test_strange_requests_are_the_clients_fault(raw: httpx2.Client) -> None:
    """Random bodies for every route: an answer below 500, with an error body that is OpenAI's."""
    paths = {path: set() for path in raw.get("/openapi.json").json()["paths"]}
    chance, seen = random.Random(0), set()
    names = {*GOOD, "metadata", "tags", "ids"}.union(*(k.model_fields.keys() | fields.REFUSED[k].keys() for k in KINDS.values()))
    for _ in range(600):
        path = chance.choice(sorted(paths)).replace("{id}", chance.choice(["x", "%00", "a" * 500, "..", "é"]))
        path = path.replace("{item}", "x").replace("{name}", "y")
        kind = next((k for at, k in KINDS.items() if path == f"/v1/{at}"), None)
        allowed = sorted(names if kind is None else kind.model_fields)
        body = {name: GOOD[name] for name in GOOD if name in allowed and (kind is None or name in kind.model_fields)}
        body |= {name: chance.choice(VALUES) for name in chance.sample(allowed, chance.randint(0, 3))}
        if kind is not None:
            body |= {name: 2 for name in ("max_tokens", "max_output_tokens") if name in kind.model_fields}
        given: Any = body if chance.random() < 0.9 else chance.choice(VALUES)
        method = "POST" if kind is not None or chance.random() < 0.5 else chance.choice(["GET", "DELETE", "PUT", "PATCH"])
        got = raw.request(method, path, content=json.dumps(given), headers={"Content-Type": "application/json"})
        seen.add(got.status_code)
        assert got.status_code < 500, (method, path, given, got.text)
        if got.status_code >= 400:
            assert {"message", "type", "param", "code"} == got.json()["error"].keys()
    assert {200, 400, 404, 405} <= seen
