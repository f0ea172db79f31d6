"""The frame of a report: one self-contained page, light and dark. It loads no script, font or picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from .svg import STYLE, Size

FULL, HALF = (980, 320), (490, 300)  # sizes of a plot: one in a row, two in a row
NARROW = (350, 270)  # size of a plot on a phone
PAGE_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1c2026; --soft: #5d6673; --edge: #e1e4e8;
  --good: #2d7a45; --warn: #96660a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #101317; --card: #181c21; --ink: #e6e8eb; --soft: #9aa3ae; --edge: #2c323a;
  --good: #6cc48a; --warn: #e2b04a; --bad: #f2837b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 40px 24px 64px; max-width: 1060px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 29px; line-height: 1.25; margin: 0 0 8px; letter-spacing: -.01em; } h2 { font-size: 20px; margin: 44px 0 8px; }
h1, h2, h3, code { overflow-wrap: anywhere; }
p { margin: 0 0 12px; max-width: 74ch; } p.soft, figcaption, td.soft, span.soft, .card span { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; margin: 26px 0; }
.card, figure, .box { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; }
.card { padding: 14px 16px; } .card b { display: block; font-size: 23px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card span { font-size: 13.5px; line-height: 1.4; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(476px, 100%), 1fr)); gap: 14px; }
figure { margin: 14px 0 0; padding: 10px 12px 12px; } figure svg { width: 100%; height: auto; display: block; }
.narrow { display: none; }
figcaption { font-size: 14px; padding: 6px 6px 0; }
.box { padding: 14px 18px; margin-top: 14px; } .box h3 { margin: 0 0 6px; font-size: 15px; } .box .text + h3 { margin-top: 12px; }
.box .text { white-space: pre-wrap; font-family: Georgia, "Times New Roman", serif; overflow-wrap: anywhere; }
.box em { color: var(--soft); }
table { border-collapse: collapse; margin: 10px 0; font-size: 14.5px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--edge); vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 600; } th, td.short { white-space: nowrap; } .num td + td, .num th + th { text-align: right; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, monospace; } .good { color: var(--good); } .warn { color: var(--warn); }
.bad { color: var(--bad); }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); }
.wide { overflow-x: auto; max-width: 100%; } .wide td { min-width: 7em; } .wide.num td, .wide.num th { white-space: nowrap; }
@media (max-width: 640px) { body { padding: 22px 12px 40px; } h1 { font-size: 24px; } th { white-space: normal; min-width: 6em; }
  .broad { display: none; } .narrow { display: block; } figure { padding: 8px 8px 10px; } .box { padding: 12px 14px; } }
"""


def page(title: str, parts: Sequence[str], record: dict[str, Any]) -> str:
    """The whole page as text: the non-empty `parts` in order, and `record` as JSON for other programs."""
    data = json.dumps(record).replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{PAGE_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + f'\n<script type="application/json" id="record">{data}</script>\n</body></html>\n'
    )


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """Large figures, each with its description below."""
    inner = "".join(f'<div class="card"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in pairs)
    return f'<div class="cards">{inner}</div>'


def table(rows: str, kind: str = "") -> str:
    """Rows (HTML) as a table that scrolls inside itself if the page is too narrow; kind "num": right-aligned figures."""
    return f'<div class="wide {kind}"><table class="{kind}">{rows}</table></div>'


def said(value: object) -> str:
    """A value as HTML: whole numbers with separators, floats with four digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(f"{value:,.4g}" if isinstance(value, float) else str(value))


def figure(drawing: str | Callable[[Size], str], caption: str, size: Size = FULL) -> str:
    """A drawing with its caption (HTML) below; "" without a drawing.

    If `drawing` is a function of a size, it is called with `size` and with NARROW, and the page shows the one that fits. A
    drawing that is wider than its place scrolls, so that its text has at least 11 pixels.
    """
    if callable(drawing):
        shown = [("wide broad", drawing(size)), ("wide narrow", drawing(NARROW))]
    else:
        shown = [("wide", drawing)]
    inner = "".join(f'<div class="{kind}">{each}</div>' for kind, each in shown if each)
    return f"<figure>{inner}<figcaption>{caption}</figcaption></figure>" if inner else ""


def pair(*figures: str) -> str:
    """Figures in one row if there is room, otherwise in one column."""
    return '<div class="pair">' + "".join(figures) + "</div>" if any(figures) else ""
