"""The report of `siltstone lab`: accuracy of each arm by length and load, frontiers, training curves and costs."""

from __future__ import annotations

from html import escape
from typing import Any

from ..eval.intervals import spoken
from .compare import COSTS, routing_figure
from .grids import heat
from .page import FULL, NARROW, cards, figure, page, pair, table
from .svg import Line, Size, plot


def _average(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean(runs: list[dict[str, Any]], score: str, **at: Any) -> float | None:
    """The mean over seeds and over the rows of a score that have these conditions."""
    rows = [row for run in runs for row in run["rows"] if row["score"] == score]
    return _average([row["mean"] for row in rows if all(row["at"].get(key) == x for key, x in at.items())])


def _values(runs: dict[str, list[dict[str, Any]]], score: str, key: str) -> list[int]:
    """What a condition is in the rows of a score, ascending."""
    rows = [row for some in runs.values() for run in some for row in run["rows"] if row["score"] == score]
    return sorted({int(row["at"][key]) for row in rows if key in row["at"]})


def _grid(runs: dict[str, list[dict[str, Any]]], points: list[tuple[int, int]]) -> str:
    """Accuracy of each arm at each length and load."""
    columns = [f"{length} / {load}" for length, load in points]
    cells = [[_mean(some, "right", length=length, load=load) for length, load in points] for some in runs.values()]
    caption = "Mean over seeds of the share of right answers, at each length of the test streams and each load."
    return _heat([*runs], columns, cells, ("Right answers", "length / load"), caption)


def _heat(names: list[str], columns: list[str], cells: list[list[float | None]], words: tuple[str, str], caption: str) -> str:
    def drawn(size: Size) -> str:
        width = max(NARROW[0], 20 + 7 * max(map(len, names)) + 60 * len(columns))
        return heat(names, columns, cells, words[0], words[1], width)

    return figure(drawn, caption) if columns else ""


def _distances(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Accuracy of each arm by the distance to the answer."""
    score, key = "right by distance", "distance from"
    places = _values(runs, score, key)
    cells = [[_mean(some, score, **{key: place}) for place in places] for some in runs.values()]
    words = ("Right answers by distance", "tokens to the answer, from")
    return _heat(
        [*runs], [f"{x:,}" for x in places], cells, words, "Mean over seeds, lengths and loads. Distances in powers of two."
    )


def _depths(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A heat map of depth by length for each arm, if answers stand at several depths."""
    depths, lengths = (_values(runs, "right by depth", key) for key in ("depth", "length"))
    if len(depths) < 2:
        return ""
    out = []
    for arm, some in runs.items():
        cells = [[_mean(some, "right by depth", depth=depth, length=length) for length in lengths] for depth in depths]
        words = (arm, "length")
        out.append(_heat([f"{x} %" for x in depths], [f"{x:,}" for x in lengths], cells, words, "By depth of the answer."))
    return "<h2>Depth by length</h2>" + pair(*out)


def _positions(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Loss by position of the question, three arms to a plot."""
    places, out, names = _values(runs, "nats by position", "position"), [], [*runs]
    for first in range(0, len(names), 3):
        lines = []
        for i, arm in enumerate(names[first : first + 3]):
            found = [(x, _mean(runs[arm], "nats by position", position=x)) for x in places]
            known = [(x, y) for x, y in found if y is not None]
            if len(known) > 1:
                lines.append(Line(arm, [x for x, _ in known], [y for _, y in known], "abc"[i]))

        def drawn(size: Size, lines: list[Line] = lines) -> str:
            title = "Loss by position, nats an answer"
            return plot(lines, title, "position, from", log_x=True, y_format="{:.2g}".format, size=size)

        out.append(figure(drawn, "Mean over seeds and lengths of the test streams.", FULL) if lines else "")
    return "".join(out)


def _arms(runs: dict[str, list[dict[str, Any]]]) -> str:
    """What each arm cost to train, and how often a sparse choice had the answer."""
    heads = ["arm", "seeds", "steps", "training tokens", "seconds a seed", "device", "routing hits by length"]
    out = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for arm, some in runs.items():
        hits = {
            n: _average([run["routing_hits"][n] for run in some if n in run["routing_hits"]]) for n in some[0]["routing_hits"]
        }
        cells = [arm, ", ".join(str(run["seed"]) for run in some), f"{some[0]['steps']:,}", f"{some[0]['tokens']:,}"]
        cells += [f"{_average([run['seconds'] for run in some]):,.0f}", some[0]["device"]]
        cells += [", ".join(f"{x:.3f} at {n}" for n, x in hits.items() if x is not None) or "-"]
        out.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return table("".join(out), "num")


def _table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each arm."""
    lengths = [*next(iter(runs.values()))[0]["right"]]
    right = (f"right at {n}: mean ± 95 % interval over seeds, each seed" for n in lengths)
    heads = ["arm", *right, "training tokens", *COSTS.values()]
    out = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for arm, some in runs.items():
        cells = [arm]
        for length in lengths:
            each = [run["right"][length] for run in some]
            cells.append(spoken(each))
        cells += [f"{some[0]['tokens']:,}", *(f"{some[0]['costs'][key]:,}" for key in COSTS)]
        out.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return table("".join(out), "num")


def _frontiers(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Accuracy at the first length against each cost; one point an arm, on the line of the best at no higher cost."""
    out, names = [], [*runs]
    means = [_average([next(iter(run["right"].values())) for run in some]) or 0.0 for some in runs.values()]
    for key, name in list(COSTS.items())[1:]:
        costs = [some[0]["costs"][key] for some in runs.values()]
        order = sorted(zip(costs, means, map(str, range(1, len(names) + 1)), strict=True))
        xs, dots, tags, best, top = [], [], [], [], order[0][1]
        for cost, share, tag in order:  # a step at each cost
            xs, dots, tags = [*xs, cost, cost], [*dots, share, share], [*tags, "", tag]
            best, top = [*best, top, max(top, share)], max(top, share)
        line = Line("best", xs, best, dots=dots, tags=tags)

        def drawn(size: Size, line: Line = line, name: str = name) -> str:
            return plot([line], f"Right answers against {name}", name, log_x=True, y_format=lambda y: f"{y:.3g}", size=size)

        out.append(figure(drawn, f"Line: the best arm that costs no more {escape(name)}.") if len(order) > 1 else "")
    told = ", ".join(f"{i + 1} {escape(name)}" for i, name in enumerate(names))
    return f"<p class='soft'>At the shortest test length, mean over seeds. Arms: {told}.</p>" + "".join(out)


def _routes(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Where the routing of each arm looks in a test stream."""
    out = [routing_figure(arm, some[0].get("routes")) for arm, some in runs.items()]
    return "<h2>Routing</h2>" + "".join(out) if any(out) else ""


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
    missing = ", ".join(f"{arm} (seed {seed})" for arm, seed in found.get("missing", []))
    points = sorted({(row["at"]["length"], row["at"]["load"]) for row in rows})
    parts = [
        f"<h1>{escape(lab['question'])}</h1>",
        f"<p class='soft'>Task {escape(lab['task'])}. Repeat with <code>{escape(found['command'])}</code>. Each arm has about "
        "the same number of parameters; the width of its MLP is chosen for that. State bytes are measured in float32 at the "
        "longest trained length; bytes read and FLOPs are estimates for the next token. Each seed is shown: with few seeds, "
        "differences below their spread mean nothing.</p>",
        cards(
            [(f"{len(runs)}", "arms"), (f"{len(lab['seeds'])}", "seeds"), (f"{lab['items']}", "test streams a length and seed")]
        ),
        *(["<h2>Accuracy</h2>", _grid(runs, points), _distances(runs), _table(runs)] if runs else []),
        *([_depths(runs), "<h2>Loss by position</h2>", _positions(runs)] if runs else []),
        *(
            ["<h2>Frontiers</h2>", _frontiers(runs), _routes(runs), "<h2>Training and cost</h2>", _curves(runs), _arms(runs)]
            if runs
            else []
        ),
        *([f"<p class='soft'>Not finished: {escape(missing)}.</p>"] if missing else []),
        "<h2>Commands</h2>",
        f"<p>Everything again: <code>{escape(found['command'])}</code></p>",
        f"<p>Another seed of the data, on one run: <code>siltstone eval DIR/ARM/SEED --tasks {escape(lab['task'])}</code></p>",
    ]
    return page(lab["question"], parts, found)
