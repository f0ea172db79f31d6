"""The report of `siltstone lab`: accuracy of each arm by length and load, frontiers, training curves and costs."""

from __future__ import annotations

from html import escape
from typing import Any

from .grids import heat
from .page import FULL, NARROW, cards, figure, page, table
from .svg import Line, Size, plot

COSTS = {"parameters": "parameters", "state_bytes": "state bytes", "bytes_read": "bytes read a token", "flops": "FLOPs a token"}


def _average(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _grid(runs: dict[str, list[dict[str, Any]]], points: list[tuple[int, int]]) -> str:
    """Accuracy of each arm at each length and load."""

    def at(arm: str, point: tuple[int, int]) -> float | None:
        rows = [row for run in runs[arm] for row in run["rows"] if row["score"] == "right"]
        return _average([row["mean"] for row in rows if (row["at"]["length"], row["at"]["load"]) == point])

    def drawn(size: Size) -> str:
        width = max(NARROW[0], 20 + 7 * max(map(len, runs)) + 60 * len(points))
        columns = [f"{length} / {load}" for length, load in points]
        return heat([*runs], columns, [[at(arm, p) for p in points] for arm in runs], "Right answers", "length / load", width)

    return figure(drawn, "Mean over seeds of the share of right answers, at each length of the test streams and each load.")


def _table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each arm."""
    lengths = [*next(iter(runs.values()))[0]["right"]]
    heads = ["arm", *(f"right at {n}: mean, each seed" for n in lengths), "training tokens", *COSTS.values()]
    out = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for arm, some in runs.items():
        cells = [arm]
        for length in lengths:
            each = [run["right"][length] for run in some]
            cells.append(f"{sum(each) / len(each):.3f} ({', '.join(f'{x:.3f}' for x in each)})")
        cells += [f"{some[0]['tokens']:,}", *(f"{some[0]['costs'][key]:,}" for key in COSTS)]
        out.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return table("".join(out), "num")


def _frontiers(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Accuracy at the first length against each cost; one point an arm, on the line of the best at no higher cost."""
    out = []
    for key, name in list(COSTS.items())[1:]:
        means = {arm: _average([next(iter(run["right"].values())) for run in some]) or 0.0 for arm, some in runs.items()}
        order = sorted((runs[arm][0]["costs"][key], share) for arm, share in means.items())
        best = [max(share for cost, share in order if cost <= at) for at, _ in order]
        line = Line("best", [cost for cost, _ in order], best, dots=[share for _, share in order])

        def drawn(size: Size, line: Line = line, name: str = name) -> str:
            return plot([line], f"Right answers against {name}", name, log_x=True, y_format=lambda y: f"{y:.2f}", size=size)

        caption = f"Dots: arms. Line: the best arm that costs no more {escape(name)}."
        out.append(figure(drawn, caption) if len(order) > 1 else "")
    return "".join(out)


def _curves(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Training loss of the first seed of each arm, three arms to a plot."""
    out, names = [], [arm for arm, some in runs.items() if len(some[0]["curve"]) > 1]
    for first in range(0, len(names), 3):
        lines = []
        for i, arm in enumerate(names[first : first + 3]):
            steps, costs = zip(*runs[arm][0]["curve"], strict=True)
            lines.append(Line(arm, steps, costs, "abc"[i]))

        def drawn(size: Size, lines: list[Line] = lines) -> str:
            return plot(lines, "Training cost, nats an answer", "steps", y_format=lambda y: f"{y:.2g}", size=size)

        out.append(figure(drawn, "The first seed of each arm.", FULL))
    return "".join(out)


def lab_report(found: dict[str, Any]) -> str:
    """The page of what `siltstone.train.lab.run_lab` returns, with `command` beside it."""
    lab, runs = found["lab"], {}
    for run in found["runs"]:
        runs.setdefault(run["arm"], []).append(run)
    rows = [row for run in found["runs"] for row in run["rows"] if row["score"] == "right"]
    points = sorted({(row["at"]["length"], row["at"]["load"]) for row in rows})
    parts = [
        f"<h1>{escape(lab['question'])}</h1>",
        f"<p class='soft'>Task {escape(lab['task'])}. Repeat with <code>{escape(found['command'])}</code>. Each arm has about "
        "the same number of parameters; the width of its MLP is chosen by bisection. State bytes are measured in float32 at the "
        "longest trained length; bytes read and FLOPs are estimates for the next token. Each seed is shown: with few seeds, "
        "differences below their spread mean nothing.</p>",
        cards(
            [(f"{len(runs)}", "arms"), (f"{len(lab['seeds'])}", "seeds"), (f"{lab['items']}", "test streams a length and seed")]
        ),
        *(["<h2>Accuracy</h2>", _grid(runs, points), _table(runs), "<h2>Frontiers</h2>", _frontiers(runs)] if runs else []),
        *(["<h2>Training</h2>", _curves(runs)] if runs else []),
    ]
    return page(lab["question"], parts, found)
