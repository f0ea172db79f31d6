"""Facts and meetings at all lengths, for a decoder with blocks and for its other forms: hours; the same command continues.

    python tools/facts_run.py RUN --text NOVEL.txt [--text ...] [--meetings FILE] [--folder build/facts] [--longest 131072]

RUN was imported with `cache="blocks"`. Each length is a run of `siltstone eval` with 40 facts a seed (eight in each of five
texts, and the same texts without them), whose JSON stays in the folder. Five seeds up to 32K tokens, two at 64K, one at 128K.
Beside it: full attention up to 16K (with yarn and dynamic scaling where they differ), sinks + window of equal bytes, and
BM25. Writes table.md there, with 95 % intervals over texts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siltstone.io.atomic import write_text

TEXTS = 5  # of each seed and length
PART = ("first token", "said", "log-probability")


@dataclass(frozen=True)
class Step:
    """One run of the command."""

    length: int
    seeds: int
    beside: str


PLAN = [
    Step(4096, 5, "full,window,bm25"),
    Step(8192, 5, "full,yarn,dynamic,window,bm25"),
    Step(16384, 5, "full,yarn,dynamic,window,bm25"),
    Step(32768, 5, "window,bm25"),
    Step(65536, 2, "window,bm25"),
    Step(131072, 1, "bm25"),
]


def made(step: Step, run: Path, texts: list[Path], folder: Path, more: list[str]) -> dict[str, Any]:
    """What the command found; it is not run again if its result is there."""
    path = folder / f"facts-{step.length}.json"
    if not path.exists():
        words = ["eval", run, "--tasks", "facts", "--lengths", step.length, "--seeds", step.seeds, "--items", TEXTS]
        words += [word for text in texts for word in ("--text", text)] + ["--beside", step.beside, "--json", *more]
        write_text(path, _said(words))
    return json.loads(path.read_text("utf-8"))


def _said(words: list[Any]) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "siltstone", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def table(rows: list[dict[str, Any]], scores: tuple[str, ...] = PART) -> str:
    """Markdown: a line for each length and form, the mean and the interval of each score, and the mean without the facts."""
    heads = [*scores, f"{scores[0]}, facts removed"] if scores is PART else list(scores)
    lines = [f"| tokens | attention | {' | '.join(heads)} | texts |", "|" + "---|" * (len(heads) + 3)]
    places = dict.fromkeys((row["at"]["length"], row["at"].get("arm", "blocks")) for row in rows)
    for length, arm in sorted(places, key=lambda place: place[0]):
        here = {row["score"]: row for row in rows if (row["at"]["length"], row["at"].get("arm", "blocks")) == (length, arm)}
        cells = [_cell(here[head]) if head in here else "" for head in heads]
        lines.append(f"| {length:,} | {arm} | {' | '.join(cells)} | {max(row['count'] for row in here.values())} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    reach = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['mean']:.2f}{reach}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--meetings", type=Path, help="a file of QMSum")
    parser.add_argument("--folder", type=Path, default=Path("build/facts"))
    parser.add_argument("--longest", type=int, default=PLAN[-1].length)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for step in PLAN:
        if step.length <= given.longest:
            rows += made(step, given.run, given.text, given.folder, ["--device", given.device])["rows"]
            write_text(given.folder / "table.md", table(rows))
    if given.meetings is not None:
        path = given.folder / "meetings.json"
        if not path.exists():
            words = ["eval", given.run, "--tasks", "meetings", "--meetings", given.meetings, "--lengths", "8192", "--seeds", "1"]
            write_text(path, _said([*words, "--items", "40", "--json", "--device", given.device]))
        found = json.loads(path.read_text("utf-8"))["rows"]
        write_text(given.folder / "meetings.md", table(found, tuple(dict.fromkeys(row["score"] for row in found))))
    print((given.folder / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
