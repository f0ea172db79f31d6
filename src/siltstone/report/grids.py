"""Heat maps and bar charts as SVG text, in the style of `svg.plot`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .svg import head, ticks


def heat(
    names: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    title: str,
    x_label: str,
    width: int = 980,
) -> str:
    """A heat map: rows of cells with values in [0, 1], larger values darker, with the value in per cent; None: an empty cell."""
    if not names:
        return ""
    left, top, tall = 20.0 + 6.6 * max(map(len, names)), 34.0, 24.0
    wide, bottom = (width - left - 12) / len(columns), top + tall * len(names)
    out = head(title, (width, int(bottom + 44)))
    for i, (name, row) in enumerate(zip(names, values, strict=True)):
        y = top + i * tall
        out.append(f'<text x="{left - 8:.1f}" y="{y + 16:.1f}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(row):
            if value is None:
                continue
            x, share = left + j * wide, min(1.0, max(0.0, value))
            kind = "on" if share > 0.55 else "off"
            out.append(
                f'<rect class="a" fill-opacity="{0.04 + 0.96 * share:.3f}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{wide - 2:.1f}" height="{tall - 2:.1f}" rx="3"/>'
                f'<text class="{kind}" x="{x + wide / 2 - 1:.1f}" y="{y + 15.5:.1f}" text-anchor="middle">{percent(share)}</text>'
            )
    for j, column in enumerate(columns):
        x = left + (j + 0.5) * wide - 1
        out.append(f'<text x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{escape(column)}</text>')
    out.append(f'<text x="{(left + width) / 2:.1f}" y="{bottom + 34:.1f}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join([*out, "</svg>"])


def percent(share: float) -> str:
    """0.004 -> "0.4%", 0.043 -> "4%", 0 -> "0"."""
    return "0" if not share else f"{share:.1%}" if 0.0005 <= share < 0.01 else f"{share:.0%}"


def bars(
    names: Sequence[str],
    values: Sequence[float | None],
    limits: Sequence[float | None],
    title: str,
    y_label: str,
    size: tuple[int, int] = (490, 300),
) -> str:
    """A bar for each name from 0 to its value, and a horizontal line at its limit."""
    known = [v for v in (*values, *limits) if v is not None]
    if not known:
        return ""
    width, height = size
    left, right, top, bottom = 46.0, width - 12.0, 44.0, height - 34.0
    high = 1.08 * max(known) or 1.0
    wide = (right - left) / len(names)
    out = head(title, size)
    out.append(f'<text x="8" y="37">{escape(y_label)}</text>')
    for tick in ticks(0.0, high, False):
        y = bottom - (bottom - top) * tick / high
        out.append(f'<line class="grid" x1="{left}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for i, (name, value, limit) in enumerate(zip(names, values, limits, strict=True)):
        x = left + i * wide
        if value is not None:
            tall = (bottom - top) * value / high
            broad = min(0.6 * wide, 60.0)
            out.append(
                f'<rect class="a" x="{x + (wide - broad) / 2:.1f}" y="{bottom - tall:.1f}" width="{broad:.1f}" '
                f'height="{tall:.1f}" rx="3"/>'
            )
        if limit is not None:
            y = bottom - (bottom - top) * limit / high
            out.append(f'<line class="b" x1="{x + 0.1 * wide:.1f}" x2="{x + 0.9 * wide:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{x + wide / 2:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(name)}</text>')
    out.append(f'<line class="axis" x1="{left}" x2="{right:.1f}" y1="{bottom}" y2="{bottom}"/>')
    return "".join([*out, "</svg>"])
