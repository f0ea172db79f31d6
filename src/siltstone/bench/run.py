"""Runs the whole benchmark and prints its table."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from rich.table import Table

from ..core.machine import keep_freed_memory, processor
from ..core.plain import json_line
from ..core.terminal import console
from ..train.precision import computes_bf16
from . import blocks, decoding, kept, layers, models, rules
from .startup import startup
from .timing import Row


def rows(quick: bool, threads: tuple[int, ...]) -> Iterator[Row]:
    """Every row, as soon as it is measured. quick: layers and models with the first number of threads, decoding with the last,
    models in the dtype in which they are trained, and each training step once."""
    rounds, prefill = (3, 8192) if quick else (7, 32768)
    native = computes_bf16(torch.device("cpu"))
    dtypes = (torch.float32, torch.bfloat16) if native else (torch.float32,)
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            torch.manual_seed(0)
            if not quick or count == threads[0]:
                yield from layers.against_package(count, rounds, 512 if quick else 2048)
                for dtype in dtypes[-1:] if quick else dtypes:
                    yield from layers.against_attention(count, rounds, dtype, prefill, 2048 if quick else 8192)
                    yield from models.prefill(count, rounds, dtype, prefill)
                    for tokens in (1024, 8192):
                        yield from models.training(count, 1 if quick else rounds, dtype, tokens)
            if not quick or count == threads[-1]:
                yield from decoding.decoding(count, rounds, (1024, 8192) if quick else (1024, 8192, 32768, 131072))
                yield from decoding.sessions(count, rounds, 2048 if quick else 8192)
    finally:
        torch.set_num_threads(before)
    yield from models.session_bytes()
    yield from kept.rounded(8192 if quick else 65536)
    yield from startup(rounds)


def on_blocks(folder: Path, quick: bool, threads: tuple[int, ...]) -> Iterator[Row]:
    """The rows of `blocks`, with each number of threads."""
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            yield from blocks.rows(folder, quick, count)
    finally:
        torch.set_num_threads(before)


def run(quick: bool, threads: tuple[int, ...], say: Callable[[str], None], which: str | Path = "all") -> str:
    """Measures, prints the table, and returns all rows as one JSON object. which: "all", "rules", or a run folder with blocks."""
    keep_freed_memory()
    found: list[Row] = []
    made = {"all": rows, "rules": rules.rows}.get(str(which)) if isinstance(which, str) else partial(on_blocks, which)
    assert made is not None
    for row in made(quick, threads):
        found.append(row)
        say(line(row))
    table = Table(title="Siltstone, measured side by side (medians of interleaved rounds)")
    for column in ("claim", "threads", "dtype", "ours", "other side", "ratio", "target", "prototype", ""):
        table.add_column(column, overflow="fold")
    for row in found:
        table.add_row(*cells(row))
    console(sys.stdout).print(table)
    return json_line(
        {
            "machine": processor(),
            "date": datetime.date.today().isoformat(),
            "threads": threads,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bf16_instructions": computes_bf16(torch.device("cpu")),
            "torch": torch.__version__,
            "quick": quick,
            "rows": [dataclasses.asdict(r) | {"reached": r.reached, "verdict": r.verdict} for r in found],
        }
    )


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""

    def figure(x: float | None) -> str:
        if x is None:
            return "-"
        return f"{x:,.0f}" if row.unit == "bytes" else f"{x:,.2f}"

    sign = "<=" if row.at_most else ">="
    return (
        row.claim + (f" ({row.note})" if row.note else ""),
        str(row.threads),
        row.dtype,
        figure(row.ours) + ("" if row.ours is None else f" {row.unit}"),
        figure(row.peer),
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.target is None else f"{sign} {row.target:g}",
        "" if row.prototype is None else f"{row.prototype:g}",
        row.verdict,
    )


def line(row: Row) -> str:
    """A row in one line."""
    claim, threads, dtype, ours, peer, ratio, target, _, verdict = cells(row)
    return f"{claim} [{dtype}, {threads} threads]: {ours} / {peer} = {ratio} {target} {verdict}"
