"""`doctor-report.html`: one self-contained page that shows an examination."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from ..report import svg
from ..report.grids import bars, heat
from ..report.page import HALF, figure, pair, said, table
from ..report.page import page as framed
from .equality import Check
from .gates import EDGES
from .record import Record

ROWS = 24  # maximum rows of a picture with a row for each head; with more heads there is a row for each layer
FLOOR = 1e-12  # smaller gradients are drawn at this value
_CLASS = {"ok": "good", "warning": "warn", "failure": "bad"}


def page(record: Record) -> str:
    """The whole page, as text."""
    facts, levels = record.facts, [f.level for f in record.findings]
    name, bad, odd = facts.get("run", "a model"), levels.count("failure"), levels.count("warning")
    counted = [_count(n, what) for n, what in ((bad, "failure"), (odd, "warning")) if n]
    verdict = ", ".join(counted) or "no problems"
    title = f"Examination of {name}: {verdict}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(". ".join(facts[key] for key in ("model", "text", "machine") if key in facts))}.</p>',
        _findings(record),
        _equality(record),
        _gates(record),
        _gradient(record),
        _parts(record),
        _told(record),
        _facts(facts),
    ]
    return framed(title, parts, record.to_dict())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _findings(record: Record) -> str:
    rows = "".join(
        f'<tr><th class="{_CLASS[f.level]}">{f.level}</th><td class="short">{escape(f.area)}</td><td>{escape(f.text)}'
        + (f'<br><span class="soft">{escape(f.advice[:1].upper() + f.advice[1:])}.</span>' if f.advice else "")
        + "</td></tr>"
        for f in record.findings
    )
    return f"<h2>Findings</h2>{table(rows)}"


def _equality(record: Record) -> str:
    dtypes = list(dict.fromkeys(c.dtype for c in record.checks))
    ways = list(dict.fromkeys(c.way for c in record.checks))
    found = {(c.way, c.dtype): c for c in record.checks}
    allowed = {c.dtype: f"{c.tolerance:.0e}" for c in record.checks}
    head = "".join(f"<th>{d}, at most {allowed[d]}</th>" for d in dtypes)
    rows = "".join(
        f"<tr><td>{escape(way)}</td>" + "".join(f"<td>{_cell(found[way, d])}</td>" for d in dtypes) + "</tr>" for way in ways
    )
    return (
        "<h2>One text, read in every way</h2>"
        f"<p>The same {record.facts['tokens']['equality']:,} tokens must give the same logits in every way of reading. The "
        "figure is the largest difference from a single call, relative to the largest logit (at least 1). A restored state must "
        "continue with the same bits.</p>" + table(f"<tr><th>read</th>{head}</tr>{rows}", "num")
    )


def _cell(c: Check) -> str:
    number = "not a number" if math.isnan(c.difference) else f"{c.difference:.1e}"
    bits = {None: "", True: ", the same bits", False: ", NOT the same bits"}[c.same_bits]
    ties = f" (before token {c.tokens:,})" if c.tokens < c.of else ""
    return f'{number}{bits}{ties} <b class="{"good" if c.ok else "bad"}">{"ok" if c.ok else f"fails at token {c.token:,}"}</b>'


def _rows(gates: list[dict[str, Any]], whole: str, by_head: str) -> list[tuple[str, Any]]:
    """(name, value) of each layer, or of each head if there are few."""
    gates = [g for g in gates if g["tokens"]]
    if sum(len(g[by_head] or []) for g in gates) > ROWS:
        return [(f"layer {g['layer']}", g[whole]) for g in gates]
    return [(f"layer {g['layer']}, head {h}", v) for g in gates for h, v in enumerate(g[by_head] or [])]


def _gates(record: Record) -> str:
    gates = [g for g in record.gates if g["tokens"]]
    if not gates:
        return ""
    edges = [f"{a:g}" for a in EDGES]
    histogram = heat(
        [f"layer {g['layer']}" for g in gates],
        [f"{a}–{b}" for a, b in zip(edges, edges[1:], strict=False)],
        [g["histogram"] for g in gates],
        "Gates by their value: share of all tokens, heads and checkpoints",
        "gate",
    )
    names = [f"layer {g['layer']}" for g in gates]
    entropies, limits = [g["entropy"] for g in gates], [g["entropy_limit"] for g in gates]

    def entropy(size: svg.Size) -> str:
        return bars(names, entropies, limits, "Entropy of the routing", "bits a token", size)

    saturated = _rows(gates, "saturated", "saturated_by_head")

    def stuck(size: svg.Size) -> str:
        shares = [[share] for _, share in saturated]
        return heat([name for name, _ in saturated], ["saturated"], shares, "Saturated gates", "share", size[0])

    return (
        f"<h2>The gates of the caches</h2><p>Over {record.facts['tokens']['gates']:,} tokens, read one at a time. A gate is "
        "saturated below 0.02 or above 0.98; softmax gates are saturated if the largest weight is above 0.98.</p>"
        + figure(histogram, "The first and the last column are saturated.")
        + figure(_use(gates), _use_caption(gates))
        + pair(
            figure(entropy, "Bars: mean entropy of one token's gates. Line: its maximum, log2 of their number.", HALF),
            figure(stuck, "Share of saturated gates, by head if there are few heads.", HALF),
        )
    )


def _use(gates: list[dict[str, Any]]) -> str:
    ages = sorted({(u["from"], u["to"]) for g in gates for u in g["use_by_age"]})
    names, values = [], []
    few = sum(len(g["online_by_head"]) for g in gates) <= ROWS
    for g in gates:
        found = {(u["from"], u["to"]): u for u in g["use_by_age"]}
        if few:
            for h, gate in enumerate(g["online_by_head"]):
                names.append(f"layer {g['layer']}, head {h}")
                values.append([gate] + [found[a]["gate_by_head"][h] if a in found else None for a in ages])
        else:
            names.append(f"layer {g['layer']}")
            values.append([g["online"]] + [found[a]["gate"] if a in found else None for a in ages])
        if g["cache"] == "sparse":
            names.append(f"layer {g['layer']}, picked")
            values.append([None] + [found[a]["picked"] if a in found else None for a in ages])
    return heat(names, ["online"] + [f"{a} to {b}" for a, b in ages], values, "Mean gate by age", "age of a checkpoint, segments")


def _use_caption(gates: list[dict[str, Any]]) -> str:
    picked = (
        " Rows “picked”: share of tokens that select a checkpoint of that age."
        if any(g["cache"] == "sparse" for g in gates)
        else ""
    )
    return f"Mean gate by the age of the checkpoint. With sigmoid gates the online memory always has weight 1.{picked}"


def _gradient(record: Record) -> str:
    found, facts = record.gradient, record.facts
    buckets = [b for b in found["buckets"] if b["all"] is not None and math.isfinite(b["all"])]
    if not buckets:
        return ""
    lines = []
    for key, name, colour in (("all", "all paths", "a"), ("memory", "memory", "b")):
        near = 0 if key == "all" else max(1, facts["delay"])  # nearer tokens are not yet in the memory
        some = [b for b in buckets if b[key] is not None and b["from"] > near]
        if some:
            xs = [(b["from"] * (b["to"] - 1)) ** 0.5 for b in some]
            lines.append(svg.Line(name, xs, [max(b[key], FLOOR) for b in some], colour))
    marks = [(facts["window"], "window"), (facts["window"] + facts["segment"], "and segment")]

    def drawing(size: svg.Size) -> str:
        return svg.plot(
            lines,
            "Norm of d loss / d input by distance, n = 1 is 1",
            "distance n, tokens",
            log_x=True,
            log_y=True,
            marks=marks if "memory" in {line.name for line in lines} else marks[:1],
            size=size,
        )

    rows = "".join(
        f"<tr><td>{b['from']:,} to {b['to'] - 1:,}</td>"
        + "".join(f"<td>{_number(b[k])}</td>" for k in ("all", "memory"))
        + "</tr>"
        for b in found["buckets"]
    )
    return (
        "<h2>How far gradients reach</h2><p>The gradient of a token's loss with respect to the embedded input n tokens earlier, "
        f"averaged over {len(found['places'])} tokens. “Memory” is the gradient without the paths through exact attention.</p>"
        + figure(drawing, f"Mean over each doubling of n, at least {FLOOR:g}. At n = 1 the norm is {found['first']:.3g}.")
        + "<details><summary>The figures</summary>"
        + table(f"<tr><th>n</th><th>all paths</th><th>memory</th></tr>{rows}", "num")
        + "</details>"
    )


def _parts(record: Record) -> str:
    if not record.answered:
        return ""
    names = [name for name in ("sinks", "window", "blocks", "memory") if any(name in x["parts"] for x in record.answered)]

    def drawn(key: str, title: str) -> str:
        some = [layer for layer in record.answered if layer[key] is not None]
        rows = [dict(zip(layer["parts"], layer[key], strict=True)) for layer in some]
        values = [[row.get(name) for name in names] for row in rows]
        return heat([f"layer {layer['layer']}" for layer in some], names, values, title, "part", HALF[0]) if some else ""

    return (
        f"<h2>Which parts answer</h2><p>At the last {record.answered[0]['tokens']} tokens, mean over heads. Window: all near "
        "tokens; in memory layers with the sinks.</p>"
        + pair(
            figure(drawn("mass", "Attention mass times value norm"), "Share of each part, in layers with blocks."),
            figure(drawn("output", "Norm of what is added to the output"), "Share of each part."),
        )
    )


def _told(record: Record) -> str:
    if not record.told:
        return ""
    rows = "".join(
        f"<tr><td>{x['distance']:,}</td><td>{x['told']} of {x['texts']}</td><td>{x['not_told']} of {x['texts']}</td></tr>"
        for x in record.told
    )
    return (
        f"<h2>A name that was told</h2><p>In how many texts the name ranks first of {record.told[0]['candidates']}.</p>"
        + table(f"<tr><th>tokens between</th><th>told</th><th>not told</th></tr>{rows}", "num")
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _facts(facts: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{_fact(value)}</td></tr>"
        for name, value in facts.items()
        if name not in ("model", "text", "machine")
    )
    return f"<details><summary>The facts</summary>{table(rows)}</details>"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return escape(", ".join(f"{key} {number:,}" for key, number in value.items()))
    if isinstance(value, list):
        return "<br>".join(escape(str(v)) for v in value)
    return said(value)
