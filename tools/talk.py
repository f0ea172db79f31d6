"""A client of servers with OpenAI's interface, for scripts: one answer, its tokens and its times."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx2


@dataclass
class Answer:
    """text: the answer; id: its name; prompt, cached, written: tokens, cached is None if the server does not tell.

    first: seconds to the first text; gaps: seconds between texts; pieces: texts that came.
    """

    text: str = ""
    id: str | None = None
    prompt: int = 0
    cached: int | None = None
    written: int = 0
    first: float = float("nan")
    gaps: list[float] = field(default_factory=list)
    pieces: int = 0

    @property
    def read(self) -> int:
        """Tokens of the prompt that were read for this answer."""
        return self.prompt - (self.cached or 0)

    @property
    def total(self) -> int:
        """Tokens of the conversation after the answer."""
        return self.prompt + self.written


@contextmanager
def talking(url: str, seconds: float = 600) -> Iterator[httpx2.AsyncClient]:
    """Not to be left before its requests have ended. seconds: for one answer."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    yield httpx2.AsyncClient(base_url=url, timeout=seconds, limits=limits)


async def chat(client: httpx2.AsyncClient, model: str, messages: list[Any], most: int, **more: Any) -> Answer:
    """An answer to messages that are all sent."""
    body = {"model": model, "messages": messages, "max_tokens": most, "stream": True, "stream_options": {"include_usage": True}}
    return await _streamed(client, "/v1/chat/completions", body | more)


async def respond(client: httpx2.AsyncClient, model: str, text: str, before: str | None, most: int, **more: Any) -> Answer:
    """An answer that goes on from an earlier one."""
    body = {"model": model, "input": text, "previous_response_id": before, "max_output_tokens": most, "stream": True}
    return await _streamed(client, "/v1/responses", body | more)


async def _streamed(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> Answer:
    found, last = Answer(), time.perf_counter()
    async with client.stream("POST", path, json=body) as got:
        if got.status_code != 200:
            raise RuntimeError(f"{path} was refused ({got.status_code}): {(await got.aread())[:300]!r}")
        async for line in got.aiter_lines():
            if not line.startswith("data: {"):
                continue
            told = json.loads(line[6:])
            if told.get("error"):
                raise RuntimeError(f"{path} failed: {told['error']}")
            piece = _heard(told, found)
            if piece:
                now = time.perf_counter()
                if found.pieces:
                    found.gaps.append(now - last)
                else:
                    found.first = now - last
                last, found.pieces, found.text = now, found.pieces + 1, found.text + piece
    return found


def _heard(told: dict[str, Any], found: Answer) -> str:
    """The text of an event; notes what else it says."""
    if "choices" in told:
        found.id = told.get("id")
        _counted(told.get("usage"), ("prompt_tokens", "completion_tokens", "prompt_tokens_details"), found)
        return (told["choices"][0]["delta"].get("content") or "") if told["choices"] else ""
    if told["type"] in ("response.completed", "response.incomplete"):
        found.id = told["response"]["id"]
        _counted(told["response"]["usage"], ("input_tokens", "output_tokens", "input_tokens_details"), found)
    elif told["type"] == "response.failed":
        raise RuntimeError(f"a response failed: {told['response'].get('error')}")
    return told["delta"] if told["type"] == "response.output_text.delta" else ""


def _counted(usage: dict[str, Any] | None, names: tuple[str, str, str], found: Answer) -> None:
    if usage:
        found.prompt, found.written = usage[names[0]], usage[names[1]]
        found.cached = (usage.get(names[2]) or {}).get("cached_tokens")


def document(run: Path | str, tokens: int, of: int = 0) -> str:
    """A text of about as many tokens of the run's tokenizer; `of` makes another one, from its first words on."""
    tok = _tokenizer(str(run))
    lines, count = [f"Document {of}."], 0
    while count < tokens:
        i = len(lines)
        lines.append(f"On day {i * 7 + of} the ship of captain number {(i * 31 + of) % 97} came to port {i % 13} with its cargo.")
        count += len(tok.encode(lines[-1] + "\n"))
    return "\n".join(lines)


@cache
def _tokenizer(run: str) -> Any:
    import siltstone as st

    return st.load(st.demo_run() if run == "demo" else run)[1]
