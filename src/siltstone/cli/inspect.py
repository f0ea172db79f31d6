"""`siltstone inspect`: shows the contents of a session file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from siltstone.cli.arguments import path


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A session file.", parser=path, show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show a session file: position, bytes by part, checkpoints and the tokens that they cover, fingerprints.

    The whole file is read and its checksum is verified; no model is needed. Bytes include reserved memory: a full window from
    the first token on, and slots for later checkpoints of logarithmic segments or of a budget.
    """
    from siltstone.core.plain import json_line
    from siltstone.demo import run_folder
    from siltstone.inference.describe import describe

    found = describe(run_folder(file))
    if as_json:
        print(json_line(found))
        return
    _print(file, found)


def _print(file: Path, found: dict[str, Any]) -> None:
    import sys

    from rich.table import Table
    from rich.text import Text

    from siltstone.core.terminal import console, escaped
    from siltstone.inference.receipt import human

    def table(title: str, heads: list[str], rows: list[list[str]]) -> Table:
        out = Table(title=title, title_justify="left", title_style="bold")
        for i, head in enumerate(heads):
            out.add_column(head, justify="right" if i and heads[0] != "session" else "left", overflow="fold")
        for row in rows:
            out.add_row(*(Text(escaped(" ".join(cell.split()))) for cell in row))
        return out

    screen = console(sys.stdout)
    screen.print(
        table(
            "Session",
            ["session", ""],
            [
                ["file", str(file)],
                ["format", f"{found['format']}, written by Siltstone {found['written_by'].get('siltstone', '?')}"],
                ["size", human(found["file_bytes"])],
                ["position", f"{found['position']:,} tokens"],
                ["state grows", found["growth"]],
                ["KV cache", f"{human(found['kv_cache_bytes'])} for a transformer of the same shape"],
                ["model", found["model"]],
                ["dtype", found["dtype"]],
                ["weights and configuration", found["weights"]],
                ["tokenizer", found["tokenizer"]],
                *([["stream", f"at byte {found['stream']['offset']:,}"]] if found["stream"] else []),
            ],
        )
    )
    whole = max(1, sum(found["parts"].values()))
    rows = [[k, f"{v:,}", f"{v / whole:.1%}"] for k, v in found["parts"].items()]
    screen.print(table("State, with reserved memory", ["part", "bytes", "share"], rows))
    layers, banks = found["memory_layers"], found["banks"]
    for bank in banks or [{"blocks": [], "checkpoints": []}]:
        points, blocks = bank["checkpoints"], ", ".join(map(str, bank["blocks"]))
        where = "the memory layer" if layers == 1 else f"each of {layers} memory layers"
        where = where if len(banks) < 2 else f"block{'s' * (len(bank['blocks']) > 1)} {blocks}"
        title = f"Checkpoints: {len(points)} in {where}"
        if not points:
            screen.print(Text(title, style="bold"))
            continue
        rows = [[str(i), f"{a:,}", f"{b:,}", f"{b - a:,}"] for i, (a, b) in enumerate(points)]
        if len(rows) > 16:
            rows = [*rows[:8], ["…"] * 4, *rows[-8:]]
        screen.print(table(title, ["checkpoint", "first token", "end", "tokens"], rows))
