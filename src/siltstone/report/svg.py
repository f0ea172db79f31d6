"""Line plots as SVG text, with only the standard library.

Colours and fonts are style classes, so that a plot fits light and dark pages: the page (or `picture`) around it has `STYLE`
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Size = tuple[int, int]
LEGIBLE = 11  # minimum pixels of text whose nominal size is 12
NAMED = 0.42  # least share of a plot's width for its lines, beside their names
TICK = 28  # least pixels between two numbers below the horizontal axis
STYLE = """
svg.plot, svg.picture { --paper: #ffffff; --ink: #1c2026; --soft: #6b7280; --grid: #e3e6ea;
  --a: #0b6e99; --b: #c2571a; --c: #6a7f1f;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg.plot, svg.picture { --paper: #14171b; --ink: #e6e8eb; --soft: #9aa3ae; --grid: #2c323a;
    --a: #58b7e0; --b: #f0955a; --c: #b5cc5a; } }
.plot text { fill: var(--soft); } .plot .title { fill: var(--ink); font-weight: 600; font-size: 13px; }
.plot .grid { stroke: var(--grid); stroke-width: 1; } .plot .axis { stroke: var(--soft); stroke-width: 1; }
.plot path { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.plot path.a { stroke: var(--a); } .plot path.b { stroke: var(--b); } .plot path.c { stroke: var(--c); }
.plot circle { opacity: .28; }
.plot circle.a, .plot text.a { fill: var(--a); } .plot circle.b, .plot text.b { fill: var(--b); }
.plot circle.c, .plot text.c { fill: var(--c); }
.plot text.a, .plot text.b, .plot text.c { font-weight: 600; }
.plot rect.a { fill: var(--a); } .plot line.b { stroke: var(--b); stroke-width: 2; } .plot text.on { fill: var(--paper); }
.plot text.off { fill: var(--ink); } .plot circle.dot { opacity: 1; } .picture .paper { fill: var(--paper); }
"""


@dataclass(frozen=True)
class Line:
    """One curve. colour: "a", "b" or "c"; dots: measured points, drawn faintly behind the (smoothed) line; with
    `tags`, each dot has a name beside it and none is left out."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str = "a"
    dots: Sequence[float] | None = None
    tags: Sequence[str] = ()


def smooth(values: Sequence[float], reach: int = 3) -> list[float]:
    """Running median over `reach` neighbours on each side."""
    out = []
    for i in range(len(values)):
        near = sorted(values[max(0, i - reach) : i + reach + 1])
        middle = len(near) // 2
        out.append(near[middle] if len(near) % 2 else (near[middle - 1] + near[middle]) / 2)
    return out


def count(value: float) -> str:
    """1500 -> "1.5k", 2000000 -> "2M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def ticks(low: float, high: float, log: bool) -> list[float]:
    """About five round numbers in [low, high]: decades on a log scale (1-2-5 if there are few), 1-2-5 steps on a linear scale."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        parts = (1, 2, 5) if math.log10(high / low) < 1.7 else (1,)
        found = [m * 10.0**e for e in range(first, last + 1) for m in parts]
        found = [v for v in found if low * 0.999 <= v <= high * 1.001]
        if len(found) < 2:
            return ticks(low, high, False)
        return found[:: 1 + max(0, len(found) - 1) // 6]
    rough = (high - low) / 5 or 1.0
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(m * base for m in (1, 2, 5, 10) if m * base >= rough * 0.999)
    start = math.ceil(low / step - 1e-9)
    return [i * step for i in range(start, math.floor(high / step + 1e-9) + 1)]


def _scale(low: float, high: float, log: bool, start: float, end: float) -> Callable[[float], float]:
    if log:
        span = math.log(high / low) or 1.0
        return lambda v: start + (end - start) * math.log(max(v, low) / low) / span
    span = (high - low) or 1.0
    return lambda v: start + (end - start) * (v - low) / span


def _range(values: list[float], log: bool, from_zero: bool) -> tuple[float, float]:
    if log:
        values = [v for v in values if v > 0] or [1.0]
        return min(values) / 1.25, max(values) * 1.25
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if from_zero else low - pad), high + pad


def _most(values: Sequence[float] | None) -> list[float]:
    """`values` without the most extreme 2 % at each end, so that outliers do not determine the range of a plot."""
    ordered = sorted(values or ())
    cut = -(-len(ordered) // 50) if len(ordered) > 10 else 0
    return ordered[cut : len(ordered) - cut]


def _spread(wanted: list[float], least: float, low: float, high: float) -> list[float]:
    """Label heights near to `wanted`, with a distance of at least `least`."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    for before, after in zip(order, order[1:], strict=False):
        placed[after] = max(placed[after], placed[before] + least)
    over = max(0.0, placed[order[-1]] - high) if order else 0.0
    return [max(low, p - over) for p in placed]


def _tags(found: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Places and names, those that would overlap joined into one in the middle."""
    out: list[tuple[float, float, list[str], float]] = []  # and the place of the first
    for x, y, tag in sorted(found):
        for i, (u, v, names, first) in enumerate(out):
            if x - u < 4.0 * len(", ".join([*names, tag])) and abs(y - v) < 12:
                out[i] = ((first + x) / 2, v, [*names, tag], first)
                break
        else:
            out.append((x, y, [tag], x))
    return [(x, y, ", ".join(names)) for x, y, names, _ in out]


def head(title: str, size: Size, place: str = "") -> list[str]:
    """The beginning of a plot: its opening tag and its title. Without a place, a minimum width keeps its text legible."""
    width, height = size
    least = f'style="min-width: {math.ceil(width * LEGIBLE / 12)}px"'
    return [
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {place or least} role="img">',
        f"<title>{escape(title)}</title>",
        f'<text class="title" x="8" y="20">{escape(title)}</text>',
    ]


def plot(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    y_format: Callable[[float], str] = count,
    marks: Sequence[tuple[float, str]] = (),
    size: Size = (640, 300),
    place: str = "",
) -> str:
    """An `<svg>` element with `lines`, each with its name at the right end, or below the title if names would take the place of
    the lines.

    marks   vertical lines (x, name)
    place   further attributes of the element, for example `x="0" y="0"` inside a picture
    """
    width, height = size
    lines = [line for line in lines if len(line.xs)]
    if not lines:
        return ""
    left, right, top = 58.0, width - 16.0 - 7.4 * max(len(line.name) for line in lines), 40.0
    above = right - left < NAMED * width and not place
    if above:
        right, top, height = width - 16.0, top + 15.0 * len(lines), height + 15 * len(lines)
    bottom = height - 40.0
    xs = [float(x) for line in lines for x in line.xs]
    x_low, x_high = (min(v for v in xs if v > 0), max(xs)) if log_x else (0.0 if min(xs) >= 0 else min(xs), max(xs))
    ys = [float(y) for line in lines for y in (*line.ys, *((line.dots or ()) if line.tags else _most(line.dots)))]
    y_low, y_high = _range(ys, log_y, from_zero)
    x_at, y_at = _scale(x_low, x_high, log_x, left, right), _scale(y_low, y_high, log_y, bottom, top)

    out = head(title, (width, height), place)
    for y in ticks(y_low, y_high, log_y):
        out.append(f'<line class="grid" x1="{left}" x2="{right:.1f}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{y_at(y) + 4:.1f}" text-anchor="end">{escape(y_format(y))}</text>')
    found_x = ticks(x_low, x_high, log_x)
    for x in found_x[:: 1 + int(len(found_x) * TICK / (right - left))]:
        out.append(f'<line class="axis" x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        out.append(f'<text x="{x_at(x):.1f}" y="{bottom + 17}" text-anchor="middle">{count(x)}</text>')
    for x, name in marks:
        if x_low <= x <= x_high:
            out.append(
                f'<line class="axis" stroke-dasharray="3 3" x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" y1="{top}" y2="{bottom}"/>'
            )
            out.append(f'<text x="{x_at(x) + 4:.1f}" y="{top + 8}">{escape(name)}</text>')
    out.append(f'<line class="axis" x1="{left}" x2="{right:.1f}" y1="{bottom}" y2="{bottom}"/>')
    out.append(f'<text x="{(left + right) / 2:.1f}" y="{bottom + 33}" text-anchor="middle">{escape(x_label)}</text>')
    for line in lines:
        for x, y in zip(line.xs, line.dots or (), strict=False):
            if y_low <= y <= y_high:
                out.append(f'<circle class="{line.colour}" cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="1.8"/>')
    for line in lines:
        found = zip(line.xs, line.dots or (), line.tags, strict=False)
        for x, y, tag in _tags([(x_at(x), y_at(y) - 6, tag) for x, y, tag in found if tag]):
            out.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(tag)}</text>')
    heights = _spread([y_at(line.ys[-1]) for line in lines], 15.0, top, bottom)
    for i, (line, height_at) in enumerate(zip(lines, heights, strict=True)):
        points = " L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in zip(line.xs, line.ys, strict=True))
        end_x, end_y = x_at(line.xs[-1]), y_at(line.ys[-1])
        out.append(f'<path class="{line.colour}" d="M{points}"/>')
        out.append(f'<circle class="dot {line.colour}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3.2"/>')
        at = (8.0, 38.0 + 15 * i) if above else (end_x + 8, height_at + 4)
        out.append(f'<text class="{line.colour}" x="{at[0]:.1f}" y="{at[1]:.1f}">{escape(line.name)}</text>')
    return "".join([*out, "</svg>"])


def picture(plots: Sequence[Callable[[str], str]], size: Size, across: int) -> str:
    """One SVG file with `plots` of one size, `across` of them in a row; each plot is a function of its `place`."""
    wide, tall = size
    places = [f'x="{i % across * wide}" y="{i // across * tall}" width="{wide}" height="{tall}"' for i in range(len(plots))]
    inner = "".join(draw(place) for draw, place in zip(plots, places, strict=True))
    width, height = wide * across, tall * -(-len(plots) // across)
    box = f'width="{width}" height="{height}"'
    start = f'<svg class="picture" xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width} {height}">'
    return f'{start}<style>{STYLE}</style><rect class="paper" {box} rx="8"/>{inner}</svg>\n'
