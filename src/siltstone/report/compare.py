"""The report of `siltstone compare`: bits per byte by position of each model, differences with intervals, and costs."""

from __future__ import annotations

from html import escape
from typing import Any

from .grids import heat
from .page import FULL, NARROW, cards, figure, page, table
from .svg import Line, Size, plot

COSTS = {"parameters": "parameters", "state_bytes": "state bytes", "bytes_read": "bytes read a token", "flops": "FLOPs a token"}


def _rows(head: list[str], rows: list[list[str]]) -> str:
    out = ["<tr>" + "".join(f"<th>{escape(x)}</th>" for x in head) + "</tr>"]
    out += ["<tr>" + "".join(f"<td>{escape(x)}</td>" for x in row) + "</tr>" for row in rows]
    return table("".join(out), "num")


def _plots(entries: list[dict[str, Any]], key: str, title: str, caption: str) -> str:
    """Lines by position, three models to a plot."""
    out = []
    for first in range(0, len(entries), 3):
        lines = []
        for i, entry in enumerate(entries[first : first + 3]):
            xs = [max(1, (b["from"] + b["to"]) // 2) for b in entry["buckets"]]
            lines.append(Line(entry["name"], xs, [b[key] for b in entry["buckets"]], "abc"[i]))

        def drawn(size: Size, lines: list[Line] = lines) -> str:
            return plot(lines, title, "position, tokens", log_x=True, y_format=lambda y: f"{y:.3g}", size=size)

        out.append(figure(drawn, caption, FULL))
    return "".join(out) if entries and len(entries[0]["buckets"]) > 1 else ""


def _apart(bucket: dict[str, Any]) -> str:
    reach = "" if bucket["low"] is None else f" ({bucket['low']:+.4f} to {bucket['high']:+.4f})"
    return f"{bucket['difference']:+.4f}{reach}"


def routing_figure(name: str, routes: dict[str, Any] | None) -> str:
    """The shares of checkpoints in the gates, by position in a text; "" without routing."""
    if not routes or len(routes["rows"]) < 2:
        return ""

    def drawn(size: Size) -> str:
        rows = routes["rows"][-6:] if size == NARROW else routes["rows"]
        width = len(rows[-1]["shares"])
        first = max(0, width - 6) if size == NARROW else 0
        values = [[row["shares"][i] if i < len(row["shares"]) else None for i in range(first, width)] for row in rows]
        columns = [str(i) for i in range(first, width)]
        names = [f"{row['position']:,}" for row in rows]
        return heat(names, columns, values, f"Routing: {name}"[:60], "checkpoint", size[0])

    caption = (
        f"Rows: position in a text of the test. Columns: checkpoints, each of {routes['segment']:,} tokens, oldest first. Cells: "
        "share of the gates, over heads and layers. A phone shows the last rows and columns."
    )
    return figure(drawn, caption, FULL) + _texts(routes["rows"])


def _texts(rows: list[dict[str, Any]]) -> str:
    """What was read, and the checkpoint that was read most; "" for a map without texts."""
    told = [row for row in rows if "most" in row][-6:]
    boxes = [
        f"<h3>At token {row['position']:,}</h3><div class='text'>…{escape(row['read'])}</div>"
        f"<h3>most read: checkpoint {row['most']['checkpoint']}, {max(row['shares']):.0%} of the gates; it begins with</h3>"
        f"<div class='text'>{escape(row['most']['text'])}…</div>"
        for row in told
    ]
    return "".join(f"<div class='box'>{box}</div>" for box in boxes)


def compare_report(found: dict[str, Any]) -> str:
    """The page of what `siltstone.eval.compare.compare` returns, with `command` beside it."""
    entries, base = found["entries"], found["entries"][0]["name"]
    others = entries[1:]
    places = [f"{b['from']:,} to {b['to']:,}" for b in entries[0]["buckets"]]
    whole = [[e["name"], f"{e['bits_per_byte']:.4f}", ", ".join(f"{x:.4f}" for x in e["seeds"])] for e in entries]
    for row, entry in zip(whole, entries, strict=True):
        tokens = entry.get("tokens")
        row += ["-" if tokens is None else f"{tokens:,}", *(f"{entry['costs'][key]:,}" for key in COSTS)]
    apart = [[place, *(_apart(e["buckets"][i]) for e in others)] for i, place in enumerate(places)]
    parts = [
        f"<h1>{escape(' · '.join(e['name'] for e in entries))}</h1>",
        f"<p class='soft'>Repeat with <code>{escape(found['command'])}</code>. Every model reads the same "
        f"{found['parts']} parts of {found['length']:,} tokens. State bytes are measured in float32 after a part; bytes read and "
        "FLOPs are estimates for the next token.</p>",
        cards([(f"{len(entries)}", "models"), (f"{found['parts']}", "parts of text"), (f"{found['length']:,}", "tokens a part")]),
        "<h2>Bits per byte</h2>",
        _rows(["model", "bits per byte", "each seed", "training tokens", *COSTS.values()], whole),
        _plots(entries, "bits_per_byte", "Bits per byte by position", "Mean over parts and seeds; less is better."),
    ]
    if others:
        caption = f"Below zero: fewer bits than {escape(base)} on the same text."
        parts += [
            f"<h2>Difference to {escape(base)}</h2>",
            _plots(others, "difference", f"Bits per byte less those of {base}", caption),
            _rows(["position", *(e["name"] for e in others)], apart),
            "<p class='soft'>In brackets: 95 % interval, a bootstrap over parts of the mean over seeds. It covers the choice of "
            "text; for the seeds, see the first table.</p>",
        ]
    if maps := [x for e in entries if (x := routing_figure(e["name"], e["routes"]))]:
        parts += ["<h2>Routing</h2>", *maps]
    return page("Comparison", parts, found)
