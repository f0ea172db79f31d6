"""The pictures of checkpoints over a stream, drawn from the results of family_spans.py: one SVG per choice.

A picture has one panel per setting, one below the other.
"""

from __future__ import annotations

from html import escape

from family_pictures import STYLE, text
from family_spans import END, SEGMENT, Life

WIDTH, HEIGHT, LEFT, TOP, ACROSS, DOWN = 390, 346, 62.0, 44.0, 312.0, 232.0
MORE = """
rect.block { fill: var(--a); stroke: var(--paper); stroke-width: 1.5; } rect.inside { fill: var(--a); opacity: .28; }
"""
TICKS = (1, 5, 10, 15, 20)


def picture(panels: dict[str, Life]) -> str:
    """The SVG file."""
    box = f'width="{WIDTH}" height="{HEIGHT * len(panels)}"'
    inner = [
        f'<g transform="translate(0 {i * HEIGHT})"><text class="title" x="12" y="20">{escape(title)}</text>{panel(found)}</g>'
        for i, (title, found) in enumerate(panels.items())
    ]
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {WIDTH} {HEIGHT * len(panels)}" role="img">'
    return "\n".join([f'{start}<style>{STYLE}{MORE}</style><rect class="paper" {box} rx="8"/>', *inner, "</svg>\n"])


def panel(found: Life) -> str:
    """Time to the right, written tokens downwards: one block per checkpoint, as wide as its lifetime, as tall as its span."""
    begins = found.ends[0]
    x_of, y_of = ACROSS / (END - begins), DOWN / found.ends[-1]

    def rect(kind: str, across: tuple[int, int], down: tuple[int, int]) -> str:
        x, y = LEFT + (across[0] - begins) * x_of, TOP + down[0] * y_of
        wide, tall = (across[1] - across[0]) * x_of, (down[1] - down[0]) * y_of
        return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'

    out = []
    for end, until in zip(found.ends, (*found.ends[1:], END), strict=True):
        out.append(rect("empty", (end, until), (0, end)))
        newest = max((b.last + 1 for b in found.live(end)), default=0) if found.carried else 0
        if newest:
            out.append(rect("inside", (end, until), (0, newest)))
    for block in found.blocks:
        first = max(e for e in (0, *found.ends) if e <= block.last) if found.carried else block.first
        out.append(rect("block", (block.since, block.until), (first, block.last + 1)))
    bottom = TOP + DOWN
    ticks = [(40 * i, str(40 * i)) for i in range(1, 5)] if found.content else [(SEGMENT * n, str(n)) for n in TICKS]
    for at, name in ticks:
        if found.content:
            along, down = LEFT + (at - begins) * x_of, TOP + at * y_of
        else:
            along, down = LEFT + (at - begins + SEGMENT / 2) * x_of, TOP + (at - SEGMENT / 2) * y_of
        if along >= LEFT:
            out.append(text(along, bottom + 16, name, anchor="middle"))
        if down <= bottom:
            out.append(text(LEFT - 8, down + 4, name, anchor="end"))
    out.append(text(12, TOP - 8, "written: token" if found.content else "written: segment"))
    out.append(
        text(LEFT + ACROSS / 2, bottom + 34, "tokens read" if found.content else "segments sealed so far", anchor="middle")
    )
    out.append(text(12, HEIGHT - 12, note(found)))
    return "".join(out)


def note(found: Life) -> str:
    """The legend of the shades."""
    if found.carried:
        return "block: a checkpoint, where it was sealed; it holds all above"
    held = "the segments that it holds" if not found.content else "the tokens that it holds"
    kept = sum(b.last + 1 - b.first for b in found.live(END - 1))
    return f"block: a checkpoint, and {held}" + ("" if kept == found.ends[-1] else "; grey: removed")
