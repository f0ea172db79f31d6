"""Measures decoding by batch and context, and writes docs/decoding.json and docs/decoding.svg. Run it on a quiet machine.

A session is `small` with sparse top-4 over constant segments of 256, compiled; beside it, one transformer of the same size with a
preallocated key-value cache. Cells whose checkpoints do not fit into memory are left out.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import torch

from siltstone.bench.decoding import Decoder, Programs, at, runtimes
from siltstone.bench.models import at_position, pair
from siltstone.bench.timing import interleaved
from siltstone.core.machine import keep_freed_memory, processor
from siltstone.io.atomic import write_json, write_text
from siltstone.models.stream_state import LMState
from siltstone.report.svg import Line, picture, plot

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS, CONTEXTS = (1, 16, 64), (1024, 4096, 16384, 65536, 131072)
MOST = 2.5e9  # bytes of state in one cell


def measured(threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step by rows and context."""
    ours, peer = pair(torch.float32, cache="sparse", gate="softmax")
    name = "compiled" if "compiled" in runtimes() else "eager"
    cells: dict[str, dict[str, float]] = {}
    programs = Programs()
    for context in CONTEXTS:
        one = at_position(ours, at(context))
        decoders = {
            str(rows): Decoder(ours, LMState.cat([one] * rows), programs.of(ours, name))
            for rows in ROWS
            if rows * one.nbytes < MOST
        }
        decoders["transformer"] = Decoder(peer, at_position(peer, at(context)))
        for found, ms in interleaved(decoders, rounds, 2).items():
            cells.setdefault(found, {})[str(context)] = ms
            print(context, found, round(ms, 2), flush=True)
    return {"machine": processor(), "date": datetime.date.today().isoformat(), "threads": threads, "runtime": name, "ms": cells}


def drawn(found: dict[str, Any]) -> str:
    """Milliseconds a token against context."""
    names, lines = {"transformer": "transformer", "1": "one session", "64": "64 sessions"}, []
    for colour, (name, label) in zip("bac", names.items(), strict=True):
        cells, rows = found["ms"].get(name, {}), int(name) if name.isdigit() else 1
        lines.append(Line(label, [float(x) for x in cells], [ms / rows for ms in cells.values()], colour))
    title, label = "Milliseconds a token", "context, tokens"
    return picture([lambda place: plot(lines, title, label, log_x=True, log_y=True, place=place)], (640, 300), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    table = measured(given.threads, given.rounds)
    write_json(DOCS / "decoding.json", table)
    write_text(DOCS / "decoding.svg", drawn(json.loads((DOCS / "decoding.json").read_text("utf-8"))))
