"""The pictures of docs/family/: one SVG per member, drawn from the figures of family_toys.py, with one panel per setting.

Panels are 390 pixels wide, one below the other: text is at least 11 pixels high on a telephone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from family_toys import ORDER, STREAM

Values = Sequence[float | None]
STYLE = """
svg { --paper: #ffffff; --ink: #1c2026; --soft: #6b7280; --grid: #e3e6ea; --a: #0b6e99; --b: #c2571a; --c: #6a7f1f;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #14171b; --ink: #e6e8eb; --soft: #9aa3ae; --grid: #2c323a;
  --a: #58b7e0; --b: #f0955a; --c: #b5cc5a; } }
.paper { fill: var(--paper); } text { fill: var(--soft); } .title { fill: var(--ink); font-weight: 600; }
line { stroke: var(--grid); } .mark { stroke: var(--soft); stroke-dasharray: 3 3; }
path { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
path.a { stroke: var(--a); } path.b { stroke: var(--b); } path.c { stroke: var(--c); }
text.a { fill: var(--a); } text.b { fill: var(--b); } text.c { fill: var(--c); }
rect.a { fill: var(--a); } rect.soft { fill: var(--soft); opacity: .45; } .empty { fill: var(--grid); opacity: .5; }
"""
SIZES = {"memory": (390, 190), "compress": (390, 150), "cache": (390, 190)}


def picture(family: str, panels: dict[str, Any]) -> str:
    """The SVG file: panels with their titles, one below the other."""
    width, height = SIZES[family]
    box = f'width="{width}" height="{height * len(panels)}"'
    draw = {"memory": recall, "compress": weights, "cache": looks_back}[family]
    inner = [
        f'<g transform="translate(0 {i * height})"><text class="title" x="12" y="20">{escape(title)}</text>{draw(figures)}</g>'
        for i, (title, figures) in enumerate(panels.items())
    ]
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width} {height * len(panels)}" role="img">'
    return "\n".join([f'{start}<style>{STYLE}</style><rect class="paper" {box} rx="8"/>', *inner, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A `<text>`."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def recall(figures: dict[str, Values]) -> str:
    """Three curves over the writes: the first value of key A, its second, and keys that are written once."""
    left, right, top, bottom, again = 34.0, 278.0, 46.0, 152.0, STREAM.rindex("A")
    step = (right - left) / (len(STREAM) - 1)

    def height(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), 1.0)

    out = []
    for value in (0.0, 0.5, 1.0):
        out.append(f'<line x1="{left}" x2="{right}" y1="{height(value):.1f}" y2="{height(value):.1f}"/>')
        out.append(text(left - 6, height(value) + 4, f"{value:g}", anchor="end"))
    for at, name in ((0, "A written"), (again, "A written again")):
        x = left + at * step
        out.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{bottom}"/>')
        out.append(text(x + 4, top - 9, name))
    out.append(text((left + right) / 2, bottom + 18, f"{len(STREAM)} writes of 12 keys, K = 8", anchor="middle"))
    names = {"first": ("b", "A, first value", 0), "second": ("a", "A, second value", again), "others": ("c", "B, C, D", 1)}
    ends = []
    for key, (kind, name, since) in names.items():
        points = [(left + i * step, height(v)) for i, v in enumerate(figures[key]) if i >= since and v is not None]
        line = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        out.append(f'<path class="{kind}" d="M{line}"/>')
        ends.append((points[-1][1], kind, name))
    low = top
    for y, kind, name in sorted(ends):  # names do not overlap
        low = max(low, y)
        out.append(text(right + 8, low + 4, name, kind))
        low += 15
    return "".join(out)


def weights(figures: dict[str, Values]) -> str:
    """Two blocks, and the share that each of their tokens has in the write."""
    out = []
    for left, key, title in ((10.0, "anywhere", "mark at any position"), (202.0, "last", "mark at the last position")):
        shares = figures[key]
        here = min(1 if key == "anywhere" else len(shares) - 1, len(shares) - 1)
        out.append(text(left, 44, title))
        out.append(f'<line x1="{left}" x2="{left + 180}" y1="122" y2="122"/>')
        for i, share in enumerate(shares):
            x, tall = left + 4 + 44 * i, 62 * (share or 0.0)
            kind = "a" if i == here else "soft"
            out.append(f'<rect class="{kind}" x="{x:.0f}" y="{122 - tall:.1f}" width="38" height="{tall:.1f}"/>')
            out.append(text(x + 19, 118 - tall, f"{share or 0.0:.2f}", anchor="middle"))
            if i == here:
                out.append(text(x + 19, 138, "mark", "a", "middle"))
    return "".join(out)


def looks_back(figures: Sequence[Values]) -> str:
    """Rows: segments, columns: tokens: how much the facts of a segment influence the answer to a token."""
    left, top, row = 94.0, 52.0, 17.0
    length, cell = len(figures[0]) // len(ORDER), (380 - left) / len(figures[0])
    out = []
    for n, topic in enumerate(ORDER):
        x, y = left + n * length * cell, top + n * row
        name = "PQR"[topic]
        out.append(text(left - 8, y + 12, f"segment {n + 1}, {name}", anchor="end"))
        out.append(text(x + length * cell / 2, top - 8, name, "title", "middle"))
        box = f'x="{left:.0f}" y="{y + 1:.0f}" width="{len(figures[0]) * cell:.1f}" height="{row - 2:.0f}"'
        out.append(f'<rect class="empty" {box}/>')
    for n, shares in enumerate(figures):
        i = 0
        while i < len(shares):
            j = i
            while j < len(shares) and shares[j] == shares[i]:
                j += 1
            if shares[i]:
                box = f'x="{left + i * cell:.1f}" y="{top + n * row + 1:.0f}" width="{(j - i) * cell:.1f}" height="{row - 2:.0f}"'
                out.append(f'<rect class="a" {box} opacity="{shares[i]:g}"/>')
            i = j
    bottom = top + len(figures) * row
    for n in range(len(ORDER) + 1):
        x = left + n * length * cell
        out.append(f'<line class="mark" x1="{x:.0f}" x2="{x:.0f}" y1="{top}" y2="{bottom}"/>')
    words = "tokens; in each segment four facts, then four questions"
    out.append(text(195, bottom + 18, words, anchor="middle"))
    return "".join(out)
