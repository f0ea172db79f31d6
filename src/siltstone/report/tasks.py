"""The report of `siltstone eval`: figures of each task, in one self-contained page."""

from __future__ import annotations

from html import escape
from typing import Any

from .compare import COSTS
from .grids import heat
from .page import HALF, NARROW, cards, figure, page, pair, table
from .svg import Line, Size, plot

AXES = ("distance", "position", "distance from", "length", "load")


def _spoken(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in row["at"].items())


def _table(rows: list[dict[str, Any]]) -> str:
    heads = ["score", "at", "mean", "95 % interval", "seeds", "items"]
    out = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in rows:
        reach = "-" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f} ({row['interval']})"
        each = ", ".join(f"{x:.3f}" for x in row["seeds"].values())
        cells = [row["score"], _spoken(row), f"{row['mean']:.3f}", reach, each, f"{row['count']:,}"]
        out.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return table("".join(out))


def _curves(rows: list[dict[str, Any]]) -> str:
    """A plot of each axis along which a task has at least two points; the other keys are averaged."""
    figures = []
    for axis in AXES:
        lines = []
        for i, score in enumerate(dict.fromkeys(row["score"] for row in rows)):
            points: dict[int, list[float]] = {}
            for row in rows:
                if row["score"] == score and axis in row["at"]:
                    points.setdefault(int(row["at"][axis]), []).append(row["mean"])
            if len(points) > 1:
                xs = sorted(points)
                lines.append(Line(score, xs, [sum(points[x]) / len(points[x]) for x in xs], "abc"[i % 3]))
        if lines:

            def drawn(size: Size, lines: list[Line] = lines, axis: str = axis) -> str:
                return plot(lines, f"By {axis}", axis, y_format=lambda y: f"{y:.3g}", size=size)

            figures.append(figure(drawn, f"Mean over the other conditions, by {escape(axis)}.", HALF))
    return pair(*figures)


def _depths(rows: list[dict[str, Any]]) -> str:
    found = {(row["at"]["depth"], row["at"]["length"]): row["mean"] for row in rows if "depth" in row["at"]}
    depths, lengths = sorted({d for d, _ in found}), sorted({n for _, n in found})
    if not found:
        return ""

    def drawn(size: Size) -> str:
        values = [[found.get((d, n)) for n in lengths] for d in depths]
        columns, width = [f"{n:,}" for n in lengths], NARROW[0] if size == NARROW else size[0]
        return heat([f"{d} %" for d in depths], columns, values, "Needle depth by length", "tokens", width)

    return figure(drawn, "Share of the wanted values in the answer, by depth of the needle and length of the text.", HALF)


def task_report(found: dict[str, Any]) -> str:
    """The page of what `siltstone.eval.run.evaluate` returns, with `model` and `command` beside it."""
    parts = [
        f"<h1>Tasks: {escape(found['model'])}</h1>",
        f"<p class='soft'>Repeat with <code>{escape(found['command'])}</code>. Intervals are of 95 %: Wilson for right and wrong "
        "answers, otherwise a bootstrap of 2,000 resamples of documents or streams.</p>",
        cards(
            [
                (f"{len(found['tasks'])}", "tasks"),
                (f"{found['seeds']}", "seeds"),
                (f"{found['items']}", "items a seed and length"),
            ]
        ),
    ]
    if cost := found.get("costs"):
        told = [f"{cost[key]:,} {words}" for key, words in COSTS.items()]
        told += [f"trained on {cost['tokens']:,} tokens"] if cost["tokens"] is not None else []
        parts.append(f"<p class='soft'>The model: {escape(', '.join(told))}; after {cost['length']:,} tokens, in float32.</p>")
    for task in found["tasks"]:
        rows = [row for row in found["rows"] if row["task"] == task["name"]]
        chance = f" Chance: {escape(task['chance'])}." if task["chance"] else ""
        parts += [f"<h2>{escape(task['name'])}</h2>", f"<p>{escape(task['about'])}{chance}</p>"]
        parts += [_depths(rows), _curves(rows), _table(rows)]
    return page(f"Tasks: {found['model']}", parts, found)
