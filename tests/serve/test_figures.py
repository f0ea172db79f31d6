"""Figures, the page at `/`, and what a fault leaves behind."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from siltstone.errors import StorageError
from siltstone.serve.house import House, Limits
from siltstone.serve.keys import Keys
from tests.serve.test_doors import key_file


def figures(raw: httpx2.Client) -> dict[str, float]:
    text = raw.get("/metrics").text
    return {s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples if not s.labels}


def test_metrics_count_what_answers_say(raw: httpx2.Client, client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Of figures."}]
    before = figures(raw)
    got = [client.chat.completions.create(model="demo", messages=messages, max_tokens=7).usage for _ in range(2)]
    after = figures(raw)
    change = {name: after[f"siltstone_{name}"] - before[f"siltstone_{name}"] for name in (
        "tokens_read_total", "tokens_reused_total", "tokens_written_total", "first_seconds_count", "sessions_kept")}  # fmt: skip
    cached = sum(u.prompt_tokens_details.cached_tokens or 0 for u in got if u and u.prompt_tokens_details)
    assert change["tokens_reused_total"] == cached > 0
    assert change["tokens_read_total"] == sum(u.prompt_tokens for u in got if u) - cached
    assert change["tokens_written_total"] == 14 and change["first_seconds_count"] == 2 and change["sessions_kept"] == 3
    shown = raw.get("/figures").json()
    assert shown["model"] == "demo" and shown["figures"]["tokens read"] == after["siltstone_tokens_read_total"]


def test_the_page_needs_nothing_from_elsewhere(raw: httpx2.Client) -> None:
    page = raw.get("/")
    assert (
        page.headers["content-type"].startswith("text/html") and "default-src 'none'" in page.headers["content-security-policy"]
    )
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("src", "href", "style") or name.startswith("on"))

    Links().feed(page.text)
    assert found == ["/page.css", "/page.js"]
    script = raw.get("/page.js")
    assert script.headers["content-type"].startswith("text/javascript") and raw.get("/page.css").status_code == 200
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script.text)
    assert {*re.findall(r'at\("(\w+)"\)', script.text)} <= {*re.findall(r'id="([\w-]+)"', page.text)}


def test_page_and_figures_are_behind_the_keys(pair: Any, serving: Callable, tmp_path: Path) -> None:
    with serving(House(*pair, name="demo", keys=Keys.read(key_file(tmp_path, "alice")))) as url:
        for path in ("/", "/metrics", "/figures", "/page.js", "/openapi.json"):
            refused = httpx2.get(url + path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
            for password, status in (("alice", 200), ("bob", 401)):
                basic = base64.b64encode(f"me:{password}".encode()).decode()
                assert httpx2.get(url + path, headers={"Authorization": f"Basic {basic}"}).status_code == status
        assert httpx2.get(url, headers=[(b"Authorization", "Basic é".encode())]).status_code == 401


@pytest.mark.parametrize("fails", ["write", "add", "put", "extend"])
def test_a_store_that_fails_appends_nothing(
    pair: Any, serving: Callable, connecting: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def fail(*given: Any) -> None:
        raise StorageError("no space")

    house = House(*pair, name="demo", folder=tmp_path, limits=Limits(slots=2))
    with serving(house) as url, connecting(url) as client:
        talk = client.conversations.create()
        keys: dict[str, Any] = {"model": "demo", "input": "x", "conversation": talk.id, "max_output_tokens": 4}
        with monkeypatch.context() as patch:
            patch.setattr(house.store, fails, fail)
            for _ in range(3):
                with pytest.raises(openai.InternalServerError) as error:
                    client.responses.create(**keys)
                assert error.value.status_code == 503 and error.value.code == "storage_failed"
        assert not list(client.conversations.items.list(talk.id))
        assert client.responses.create(**keys).usage
        assert len(list(client.conversations.items.list(talk.id))) == 2 and house.engine.gate.free == 2
