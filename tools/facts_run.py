"""Facts at all lengths, and meetings, for a decoder with blocks and for its other forms: hours on two cores, minutes on a GPU.

    python tools/facts_run.py RUN --text NOVEL.txt [--text ...] [--folder build/facts] [--lengths 8192,65536] [--seeds 5]
        [--arms blocks,full,...] [--minutes 60] [--control blocks,full,...] [--meetings FILE] [--device cuda]

RUN was imported with `cache="blocks"`. A point is one text of one seed and length in one form, with eight facts; its figures are
those of the task `facts` of `siltstone eval`, which has `--wordings 3`, and stay in the folder. Five seeds of five texts each up
to 32K tokens, two at 64K, one at 128K. Full attention, yarn and dynamic scaling end at 16K tokens.
The same command continues, and several at the same time share the points of a folder; each number of wordings needs a folder of
its own. Writes table.md there, with 95 % intervals over texts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import siltstone as st
from siltstone.errors import InUse, SiltstoneError
from siltstone.eval import beside
from siltstone.eval.intervals import ratio
from siltstone.eval.retrieval import RereadReader
from siltstone.eval.run import summary
from siltstone.eval.tasks.base import Observation, random_numbers
from siltstone.eval.tasks.facts import Facts, FactsOptions
from siltstone.eval.tasks.reader import Reader
from siltstone.inference.session import Session
from siltstone.io import claim, write_json
from siltstone.io.atomic import make_folder, write_text
from siltstone.text import read_blocks

TEXTS = 5  # of each seed and length
SEEDS = {4096: 5, 8192: 5, 16384: 5, 32768: 5, 65536: 2, 131072: 1}
FULL = 16384  # the longest text that full attention reads
RESULT = "result.json"
PAIRS = {"full": ("blocks", "reread", "reread five"), "bm25": ("reread", "reread five")}  # what is set beside what
PART = ("first token", "said", "log-probability")


@dataclass(frozen=True)
class Point:
    """One text in one form."""

    length: int
    arm: str
    seed: int
    text: int

    @property
    def name(self) -> str:
        """Of its folder among the results."""
        return f"{self.length}-{self.arm}-{self.seed}-{self.text}"


def points(lengths: list[int], arms: list[str], seeds: int) -> Iterator[Point]:
    """All points, those of the first seed first; of a text, blocks first: other arms need the bytes of their state."""
    for seed in range(seeds):
        for length in (length for length in lengths if seed < SEEDS.get(length, 1)):
            able = [arm for arm in arms if arm not in ("full", "yarn", "dynamic") or length <= FULL]
            yield from (Point(length, arm, seed, text) for text in range(TEXTS) for arm in able)


class Once(RereadReader):
    """A reader that remembers the last text which it has read: that of blocks, and then of reread."""

    again = False
    last: tuple[str, Session] | None = None

    def read(self, text: str) -> Session:
        """As Reader."""
        if self.last is None or self.last[0] != text:
            self.last = (text, super().read(text))
        self.largest = max(self.largest, self.last[1].nbytes)
        return self.last[1]

    def asking(self, session: Session, question: str) -> Session:
        """As RereadReader if `again` is set, as Reader if not."""
        return super().asking(session, question) if self.again else Reader.asking(self, session, question)


def observed(task: Facts, own: Once, folder: Path, point: Point, held: int) -> dict[str, Any]:
    """What is found at a point. held: bytes of the blocks' state after a text of this length."""
    reader, own.again = own, point.arm == "reread"
    if point.arm not in ("blocks", "reread"):
        own.largest = held
        reader = beside.reader(own, beside.origin(folder), point.arm, point.length)
    by = random_numbers(task.name, "test", point.seed, point.length, point.text)
    reader.largest = 0
    found = task.observe(reader, point.length, point.text, by)
    several = f", {task.options.wordings} wordings" if task.options.wordings > 1 else ""
    return vars(point) | {"arm": point.arm + several, "scores": {one.score: one.value for one in found}, "bytes": reader.largest}


def kept(folder: Path) -> list[dict[str, Any]]:
    """The points of a folder, the shortest texts first."""
    found = [json.loads(path.read_text("utf-8")) for path in folder.glob(f"points/*/{RESULT}")]
    return sorted(found, key=lambda one: (one["length"], one["arm"], one["seed"], one["text"]))


def rows(task: Facts, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and intervals over texts, as `siltstone eval` has them."""
    each = [
        (one["seed"], Observation(score, value, {"length": one["length"], "arm": one["arm"]}))
        for one in found
        for score, value in one["scores"].items()
    ]
    return summary(task, sorted({seed for seed, _ in each}), each)


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


def compared(points: list[dict[str, Any]], score: str = PART[0]) -> str:
    """Markdown: right answers of a form as a share of another's on the same texts, with 95 % intervals over these texts."""
    lines = ["| tokens | attention | beside | of its right answers | texts |", "|---|---|---|---|---|"]
    found = {(x["length"], x["arm"], x["seed"], x["text"]): x["scores"][score] for x in points}
    for length in sorted({x["length"] for x in points}):
        for other, arms in PAIRS.items():
            for arm in arms:
                at = [key[2:] for key in found if key[:2] == (length, arm) and (length, other, *key[2:]) in found]
                under = [found[length, other, *place] for place in at]
                if len(at) > 1 and min(under) > 0:
                    share, low, high = ratio([found[length, arm, *place] for place in at], under)
                    reach = f"{share:.0%} ({low:.0%} to {high:.0%})"
                    lines.append(f"| {length:,} | {arm} | {other} | {reach} | {len(at)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    reach = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['mean']:.2f}{reach}"


def asked_about_meetings(run: Path, file: Path, device: str) -> list[dict[str, Any]]:
    """The rows of the task `meetings`."""
    words = ["eval", run, "--tasks", "meetings", "--meetings", file, "--lengths", "8192", "--seeds", "1", "--items", "40"]
    command = [sys.executable, "-W", "ignore", "-m", "siltstone", *map(str, words), "--json", "--device", device]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--meetings", type=Path, help="a file of QMSum")
    parser.add_argument("--folder", type=Path, default=Path("build/facts"))
    parser.add_argument("--lengths", default=",".join(map(str, SEEDS)))
    parser.add_argument("--arms", default="blocks,reread,full,yarn,dynamic,window,bm25")
    parser.add_argument("--seeds", type=int, default=max(SEEDS.values()))
    parser.add_argument("--control", default="", help="arms that also read each text without the facts")
    parser.add_argument("--wordings", type=int, default=1, help="sentences of each kind of facts; the points of docs have one")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no point after this time")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    arms, controls = ([name for name in names.split(",") if name] for names in (given.arms, given.control))
    beside.check([arm for arm in [*arms, *controls] if arm != "blocks"])
    make_folder(given.folder)
    model, tokenizer = st.load(given.run)[:2]
    model = model.eval().requires_grad_(False).to(given.device)
    own = Once(model, tokenizer, ["".join(read_blocks(path)) for path in given.text])
    end = time.monotonic() + 60 * given.minutes
    todo = list(points([int(x) for x in given.lengths.split(",")], arms, given.seeds))
    for point in [*todo, *todo]:  # the second time those that waited for the bytes of blocks, or that another process gave up
        place = given.folder / "points" / point.name
        first = given.folder / "points" / replace(point, arm="blocks").name / RESULT
        held = json.loads(first.read_text("utf-8"))["bytes"] if first.exists() else 0
        waits = point.arm in ("reread", "window") and not held
        if (place / RESULT).exists() or time.monotonic() > end or waits:
            continue
        try:
            claimed = claim(make_folder(place))
        except InUse:
            continue
        with claimed:
            if (place / RESULT).exists():
                continue
            task = Facts(FactsOptions(8, point.arm in controls, given.wordings))
            found = observed(task, own, given.run, point, held)
            write_json(place / RESULT, found)
        print(f"{point.name}: {found['scores']}", flush=True)
    everything = table(rows(Facts(), kept(given.folder)))
    write_text(given.folder / "table.md", everything)
    if given.meetings is not None:
        path = given.folder / "meetings.json"
        if not path.exists():
            write_json(path, asked_about_meetings(given.run, given.meetings, given.device))
        meetings = json.loads(path.read_text("utf-8"))
        write_text(given.folder / "meetings.md", table(meetings, tuple(dict.fromkeys(row["score"] for row in meetings))))
    print(everything)


if __name__ == "__main__":
    try:
        main()
    except SiltstoneError as error:
        sys.exit(f"facts_run: error: {error}")
