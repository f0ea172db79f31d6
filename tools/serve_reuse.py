"""Long conversations over a document: each turn must read its new items alone, also after a restart of the server.

    python tools/serve_reuse.py --run demo --document 20000     # the shipped model
    python tools/serve_reuse.py --run RUN --document 3000       # a pretrained decoder

Two clients talk about the document: one goes on from the last response, the other sends everything in every turn. Halfway the
server is stopped and started again. A turn passes if it reused all tokens of the turn before, prompt and answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from served import serving
from talk import Answer, chat, document, respond, talking

Turn = Callable[[Any, str], Awaitable[Answer]]


class Going:
    """Goes on from the last response."""

    def __init__(self, model: str, text: str, tokens: int) -> None:
        self.model, self.text, self.tokens, self.before = model, text, tokens, None

    async def turn(self, client: Any, said: str) -> Answer:
        """The answer of one turn."""
        asked = said if self.before else f"{self.text}\n\n{said}"
        got = await respond(client, self.model, asked, self.before, self.tokens, temperature=0)
        self.before = got.id
        return got


class Sending:
    """Sends everything."""

    def __init__(self, model: str, text: str, tokens: int) -> None:
        self.model, self.tokens, self.messages = model, tokens, [{"role": "system", "content": text}]

    async def turn(self, client: Any, said: str) -> Answer:
        """The answer of one turn."""
        self.messages.append({"role": "user", "content": said})
        got = await chat(client, self.model, self.messages, self.tokens, temperature=0)
        self.messages.append({"role": "assistant", "content": got.text})
        return got


def checked(name: str, turns: list[Answer], last: float) -> tuple[dict[str, Any], list[str]]:
    """Figures of a client, and what is wrong. last: the longest time to first token in the end, in those of the beginning."""
    wrong = [
        f"{name}, turn {i + 1}: {now.cached} of {before.total} earlier tokens were reused"
        for i, (before, now) in enumerate(zip(turns, turns[1:], strict=False), 1)
        if now.cached != before.total
    ]
    if not turns[0].first > 0 or any(turn.written == 0 for turn in turns):
        wrong.append(f"{name}: a turn had no text")
    begin, end = (statistics.median(turn.first for turn in part) for part in (turns[1:4], turns[-3:]))
    if end > last * begin:
        wrong.append(f"{name}: to the first text {end:.3f} s in the end, {begin:.3f} s in the beginning")
    figures = {
        "turns": len(turns),
        "document_read": turns[0].read,
        "document_seconds": round(turns[0].first, 3),
        "read_in_later_turns": [min(t.read for t in turns[1:]), max(t.read for t in turns[1:])],
        "tokens_in_the_end": turns[-1].total,
        "first_in_the_beginning": round(begin, 4),
        "first_in_the_end": round(end, 4),
    }
    return figures, wrong


async def talked(url: str, clients: dict[str, Any], turns: range) -> dict[str, list[Answer]]:
    """The answers of each client in these turns."""
    with talking(url) as client:
        async with client:
            return {
                name: [await one.turn(client, f"Question {i}: what came to port {i % 13}?") for i in turns]
                for name, one in clients.items()
            }


def reuse(run: str, tokens: int, turns: int, each: int, last: float) -> tuple[dict[str, Any], list[str]]:
    """Figures of both clients, and what is wrong."""
    name = Path(run).name
    clients: dict[str, Any] = {
        "goes on": Going(name, document(run, tokens, 1), each),
        "sends everything": Sending(name, document(run, tokens, 2), each),
    }
    found: dict[str, list[Answer]] = {}
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder:
        for part in (range(turns // 2), range(turns // 2, turns)):
            with serving(run, "--store", folder, "--name", name) as server:
                for who, got in asyncio.run(talked(server.url, clients, part)).items():
                    found.setdefault(who, []).extend(got)
    checks = {who: checked(who, got, last) for who, got in found.items()}
    return {who: figures for who, (figures, _) in checks.items()}, [x for _, wrong in checks.values() for x in wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", default="demo", help="folder of a model (default: demo, the shipped one)")
    parser.add_argument("--document", type=int, default=20_000, help="tokens of the document (default 20,000)")
    parser.add_argument("--turns", type=int, default=50, help="of each client (default 50)")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer, at most (default 16)")
    parser.add_argument("--slower", type=float, default=1.5, help="to the first text in the end, at most (default 1.5 times)")
    asked = parser.parse_args()
    figures, wrong = reuse(asked.run, asked.document, asked.turns, asked.tokens, asked.slower)
    print(json.dumps(figures, indent=1))
    print("\n".join(wrong) if wrong else "every turn read its new items alone", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
