"""Load on a server, over loopback: `make load`. Prints one JSON object; with --out it is also written to a file.

    python tools/load.py --scenarios levels many stored churn --out docs/serving.json   # the shipped model, a server of its own
    python tools/load.py --run RUN --levels 1,16 --tokens 2000 --scenarios levels          # a pretrained decoder
    python tools/load.py --url http://127.0.0.1:8080 --model NAME --run RUN --scenarios levels --label "llama.cpp, Q4_1"

levels   so many clients at once, each with a conversation over a document of its own: the second and later turns are measured
many     sessions that exist at once, a part of them active at any moment
stored   sessions in the store, more than memory may have; some, at random, go on
churn    conversations begin, go on, are given up and are deleted, for some minutes: the slope of the server's memory

Times are of the client. A server of another program is measured from outside alone; its scenarios `stored` and `churn` have no
meaning. Sizes are arguments; `--small` takes small ones, to see that the script works.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from served import Served, serving
from talk import Answer, chat, document, respond, talking

SMALL = {"tokens": 64, "sessions": 12, "active": 4, "stored": 20, "continued": 5, "minutes": 0.2, "turns": 2, "each": 8}
FEW = 3  # sessions of the store that are in memory with --small; otherwise 256


@dataclass
class Load:
    """What the scenarios share. server: None for a server that somebody else runs."""

    asked: argparse.Namespace
    client: httpx2.AsyncClient
    model: str
    server: Served | None
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def text(self, of: int) -> str:
        """A document."""
        return document(self.asked.run, self.asked.tokens, of)

    async def workers(self, works: Sequence[Callable[[], Awaitable[Any]]], most: int) -> tuple[list[Any], float]:
        """The results, `most` at a time, and the seconds of all."""
        gate, began = asyncio.Semaphore(most), time.perf_counter()

        async def one(work: Callable[[], Awaitable[Any]]) -> Any:
            async with gate:
                return await work()

        return list(await asyncio.gather(*(one(work) for work in works))), time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and the 95th of 100, in milliseconds; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    at = min(len(ordered) - 1, int(0.95 * len(ordered)))
    return {"median": round(1000 * statistics.median(ordered), 2), "p95": round(1000 * ordered[at], 2)}


def figures(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """What is told of some answers."""
    known = [x for x in answers if x.cached is not None]
    return {
        "answers": len(answers),
        "first_ms": spread([x.first for x in answers if x.pieces]),
        "between_ms": spread([gap for x in answers for gap in x.gaps]),
        "written_per_second": round(sum(x.written for x in answers) / seconds, 1),
        "read_per_answer": round(statistics.mean(x.read for x in known), 1) if known else None,
        "seconds": round(seconds, 2),
    }


async def levels(load: Load) -> list[dict[str, Any]]:
    """Figures for each number of clients."""
    asked, found = load.asked, []
    for level in asked.levels:
        talks: list[list[Any]] = [[{"role": "system", "content": load.text(1000 * level + i)}] for i in range(level)]

        async def talk(messages: list[Any], turn: int) -> Answer:
            messages.append({"role": "user", "content": f"Turn {turn}: what came to port {turn}?"})
            got = await chat(load.client, load.model, messages, asked.each, temperature=0)
            messages.append({"role": "assistant", "content": got.text})
            return got

        first, seconds = await load.workers([lambda m=m: talk(m, 0) for m in talks], level)
        row = {"clients": level, "tokens": asked.tokens, "read_per_second": round(sum(x.read for x in first) / seconds, 1)}
        answers, took = [], 0.0
        for turn in range(1, asked.turns + 1):
            got, seconds = await load.workers([lambda m=m, t=turn: talk(m, t) for m in talks], level)
            answers, took = answers + got, took + seconds
        found.append(row | figures(answers, took))
    return found


async def opened(load: Load, count: int, tag: int) -> tuple[list[str | None], dict[str, Any]]:
    """The last responses of new conversations."""
    asked = load.asked
    works = [lambda i=i: respond(load.client, load.model, load.text(tag + i), None, 1, temperature=0) for i in range(count)]
    got, seconds = await load.workers(works, asked.active)
    told = {"sessions": count, "tokens": asked.tokens, "read_per_second": round(sum(x.read for x in got) / seconds, 1)}
    return [x.id for x in got], told


async def many(load: Load) -> dict[str, Any]:
    """Sessions that exist at once; each goes on once, in random order, as many at a time as are active."""
    ids, told = await opened(load, load.asked.sessions, 100_000)
    load.chance.shuffle(ids)
    works = [lambda id=id: respond(load.client, load.model, "And then?", id, load.asked.each, temperature=0) for id in ids]
    got, seconds = await load.workers(works, load.asked.active)
    told |= {"active": load.asked.active} | figures(got, seconds)
    return told | ({} if load.server is None else {"resident_MB": load.server.resident >> 20})


async def stored(load: Load) -> dict[str, Any]:
    """Sessions of the store, of which some go on; most are on the disk alone."""
    ids, told = await opened(load, load.asked.stored, 200_000)
    chosen = load.chance.sample(ids, load.asked.continued)
    works = [lambda id=id: respond(load.client, load.model, "And then?", id, load.asked.each, temperature=0) for id in chosen]
    got, seconds = await load.workers(works, 1)
    now = (await load.client.get("/figures")).json()["figures"]
    shown = {
        name.replace(" ", "_"): now[name] for name in ("sessions kept", "sessions in memory", "sessions woken") if name in now
    }
    again = sum(1 for x in got if x.read > load.asked.tokens // 2)
    return told | {"continued": len(got), "read_again": again} | figures(got, seconds) | shown


async def churn(load: Load) -> dict[str, Any]:
    """Bytes by which the server's memory grows in a minute, after the first quarter of the time."""
    assert load.server is not None
    began, until = time.monotonic(), time.monotonic() + load.asked.minutes * 60
    samples: list[tuple[float, int]] = []
    counts = {"begun": 0, "given_up": 0, "deleted": 0}

    async def user(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < until:
            counts["begun"] += 1
            text = document(load.asked.run, load.asked.tokens // 4, chance.randrange(1 << 30))
            got = await respond(load.client, load.model, text, None, load.asked.each)
            if chance.random() < 0.5:
                counts["given_up"] += 1
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(respond(load.client, load.model, "More.", got.id, 2000), chance.random())
            counts["deleted"] += 1
            await load.client.delete(f"/v1/responses/{got.id}")

    async def watch() -> None:
        while time.monotonic() < until:
            samples.append((time.monotonic() - began, load.server.resident if load.server else 0))
            await asyncio.sleep(min(1.0, load.asked.minutes * 3))

    await asyncio.gather(watch(), *(user(i) for i in range(load.asked.active)))
    late = [x for x in samples if x[0] > (until - began) / 4]
    slope = statistics.linear_regression([t / 60 for t, _ in late], [b for _, b in late]).slope
    return counts | {
        "minutes": load.asked.minutes,
        "resident_MB": [late[0][1] >> 20, late[-1][1] >> 20],
        "slope_kB_per_minute": round(slope / 1000, 1),
    }


SCENARIOS: dict[str, Callable[[Load], Awaitable[Any]]] = {"levels": levels, "many": many, "stored": stored, "churn": churn}


@contextlib.contextmanager
def target(asked: argparse.Namespace, scenario: str, folder: str) -> Iterator[tuple[str, Served | None]]:
    """The address to be loaded: the one that was given, or a new server's."""
    if asked.url:
        yield asked.url, None
        return
    words = ["--store", str(Path(folder, scenario)), "--name", "model", "--queue", "100000"]
    if scenario == "stored":
        words += ["--max-sessions", str(FEW if asked.small else 256)]
    with serving(asked.run, *words, *asked.serve) as server:
        yield server.url, server


async def measured(asked: argparse.Namespace, scenario: str, url: str, server: Served | None) -> Any:
    """The result of one scenario."""
    with talking(url, asked.patience) as client:
        async with client:
            return await SCENARIOS[scenario](Load(asked, client, asked.model, server))


def loaded(asked: argparse.Namespace) -> dict[str, Any]:
    """The results of all scenarios."""
    if asked.url and {*asked.scenarios} & {"stored", "churn"}:
        raise SystemExit("load.py: --url takes the scenarios levels and many: the others look into the server")
    found: dict[str, Any] = {"label": asked.label or f"siltstone, {Path(asked.run).name}", "machine": platform.processor() or "?"}
    for scenario in asked.scenarios:
        with tempfile.TemporaryDirectory(prefix="siltstone-") as folder, target(asked, scenario, folder) as (url, server):
            found[scenario] = asyncio.run(measured(asked, scenario, url, server))
        print(f"{scenario}: {json.dumps(found[scenario])}", file=sys.stderr, flush=True)
    return found


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", default="demo", help="model to serve, and tokenizer that counts documents (default demo)")
    parser.add_argument("--url", help="a server that runs already, instead of one of its own")
    parser.add_argument("--model", default="model", help="its name there")
    parser.add_argument("--label", help="what the results are called")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--levels", type=lambda x: [int(n) for n in x.split(",")], default=[1, 16, 64], help="1,16,64")
    parser.add_argument("--tokens", type=int, default=512, help="of a document (default 512)")
    parser.add_argument("--turns", type=int, default=4, help="measured turns of a level (default 4)")
    parser.add_argument("--each", type=int, default=32, help="tokens of an answer (default 32)")
    parser.add_argument("--sessions", type=int, default=1000, help="many: sessions (default 1,000)")
    parser.add_argument("--active", type=int, default=64, help="many, churn: at a time (default 64)")
    parser.add_argument("--stored", type=int, default=10_000, help="stored: sessions (default 10,000)")
    parser.add_argument("--continued", type=int, default=200, help="stored: that go on (default 200)")
    parser.add_argument("--minutes", type=float, default=10, help="churn (default 10)")
    parser.add_argument("--patience", type=float, default=3600, help="seconds for one answer (default 3,600)")
    parser.add_argument("--serve", nargs="*", default=[], help="further arguments of siltstone serve, without their dashes")
    parser.add_argument("--out", type=Path, help="file for the results")
    parser.add_argument("--small", action="store_true", help="small sizes")
    asked = parser.parse_args(words)
    if asked.small:
        vars(asked).update(SMALL | {"levels": [1, 3]})
    asked.serve = [f"--{word}" if at % 2 == 0 else word for at, word in enumerate(asked.serve)]
    return asked


def main() -> int:
    asked = parsed()
    text = json.dumps(loaded(asked), indent=1) + "\n"
    if asked.out is not None:
        asked.out.write_text(text, "utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
