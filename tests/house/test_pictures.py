"""Plots, report and panel, from invented numbers."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console

from siltstone.demo import plots, report
from siltstone.demo.panel import Panel, sparkline
from siltstone.demo.record import Record, Trace
from siltstone.report import svg
from tests.demo import synthetic

VOID = {"meta", "br", "line", "circle", "path", "rect"}


class Outline(HTMLParser):
    """Counts elements, and fails where a closing tag does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    assert not parsed.open
    return parsed


@pytest.mark.parametrize(
    ("low", "high", "log", "wanted"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (1.9, 2.1, False, [1.9, 1.95, 2.0, 2.05, 2.1]),
        (1, 1e4, True, [1, 10, 100, 1000, 10000]),
        (900, 9000, True, [1000, 2000, 5000]),
        (3, 3, False, [3]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool, wanted: list[float]) -> None:
    assert svg.ticks(low, high, log) == pytest.approx(wanted)


def test_a_running_median_ignores_a_spike() -> None:
    assert svg.smooth([1, 1, 9, 1, 1], 1) == [1, 1, 1, 1, 1]
    assert svg.smooth([]) == []


def test_a_plot_is_xml_with_everything_inside() -> None:
    lines = [svg.Line("a < b & c", [1, 10, 100], [5.0, 6.0, 7.0], "a", [5.0, 90.0, 7.0]), svg.Line("none", [], [])]
    root = ElementTree.fromstring(svg.plot(lines, "A <title>", "x & y", log_x=True, marks=[(10, "ten"), (1e9, "far away")]))
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    assert {"A <title>", "x & y", "a < b & c", "ten"} <= set(texts) and "far away" not in texts
    for circle in (e for e in root.iter() if e.tag.endswith("circle")):
        assert 0 <= float(circle.attrib["cx"]) <= 640 and 0 <= float(circle.attrib["cy"]) <= 300


@pytest.mark.parametrize("log", [False, True])
def test_a_plot_of_one_point_or_a_constant(log: bool) -> None:
    for ys in ([2.0], [2.0, 2.0], [0.0, 0.0]):
        line = svg.Line("flat", range(1, len(ys) + 1), ys)
        assert "nan" not in svg.plot([line], "t", "x", log_x=log, log_y=log)
    assert svg.plot([], "t", "x") == ""


def test_labels_do_not_overlap() -> None:
    lines = [svg.Line(name, [1, 2], [1.0, 1.0 + i * 1e-3], "abc"[i]) for i, name in enumerate(("one", "two", "three"))]
    found = re.findall(
        r'<text class="[abc]" x="[\d.]+" y="([\d.]+)"', svg.plot([*lines, svg.Line("top", [1, 2], [1, 9])], "t", "x")
    )
    heights = sorted(map(float, found))
    assert len(heights) == 4 and all(b - a >= 14.9 for a, b in zip(heights, heights[1:], strict=False))


def test_the_report_is_whole_and_needs_nothing_from_elsewhere() -> None:
    record = synthetic.record()
    record.evidence = synthetic.evidence()
    text = report.page(record)
    parsed = outline(text)
    assert parsed.seen.count("figure") == 5 and parsed.seen.count("svg") == 10 and parsed.links == []  # wide and narrow
    assert "@import" not in text and "url(" not in text
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in text
    assert "has been &lt;in&gt; the course of the year &amp; will be" in text
    stored = re.search(r'<script type="application/json" id="record">(.*?)</script>', text, re.S)
    assert stored and json.loads(stored[1]) == json.loads(json.dumps(record.to_dict()))


def test_the_report_says_what_failed() -> None:
    record = synthetic.record()
    record.resume["equal"] = False
    record.forks[0]["moved"] = True
    record.notes.append("The time ended after 9 of 10 tokens.")
    text = report.page(record)
    assert "NOT equal" in text and "which is a fault" in text and "The time ended" in text


def test_the_report_of_a_short_reading_without_a_transformer() -> None:
    record = synthetic.record(chunks=1)
    record.transformer, record.samples = Trace(), []
    outline(report.page(record))
    assert "did not run" in report.page(record)


def test_the_picture_is_one_svg_file() -> None:
    root = ElementTree.fromstring(plots.picture(synthetic.record()))
    assert len([e for e in root if e.tag.endswith("svg")]) == 3


def test_pictures_and_tables_hold_at_390_pixels() -> None:
    """Text of 12 pixels does not shrink below 11: narrow pictures fit, all others and all tables scroll inside themselves."""
    root = ElementTree.fromstring(plots.picture(synthetic.record(), narrow=True))
    assert float(root.attrib["width"]) <= 358 and len({e.attrib["y"] for e in root if e.tag.endswith("svg")}) == 3
    record = synthetic.record()
    record.evidence = synthetic.evidence()
    text = report.page(record)
    room = 390 - 2 * 12 - 2 * 9  # the page's padding, the figure's and its border
    for place, width, least in re.findall(
        r'<div class="(wide[^"]*)"><svg[^>]*viewBox="0 0 (\d+) \d+" style="min-width: (\d+)px"', text
    ):
        assert int(least) >= 11 / 12 * int(width) and ("narrow" not in place or int(least) <= room)
    assert len(re.findall(r'<div class="wide [a-z]*"><table', text)) == text.count("<table") > 3
    assert text.count('class="wide broad"') == text.count('class="wide narrow"') == 5


def test_numbers_have_separators() -> None:
    record = synthetic.record()
    record.evidence = synthetic.evidence()
    text = report.page(record)
    assert "(32 to 16,384)" in text
    assert (
        "2,100,000" in text
        and "5,120" in text
        and not re.search(r"<td>\d{4,}</td>", text.replace("<td>4711", "").replace("<td>4712", ""))
    )


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([1, 1, 1]) == "▁▁▁"
    assert sparkline([0.0, 7.0]) == "▁█"
    assert len(sparkline(list(range(1000)), width=20)) == 20


@pytest.mark.parametrize("terminal", [False, True])
def test_the_panel(terminal: bool) -> None:
    whole, shown = synthetic.record(chunks=40), io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    record = Record(bits=1.93)
    with Panel(record, 40 * 1024, console) as panel:
        panel.show()
        for i in range(40):
            record.reader.add(whole.reader.position[i], whole.reader.ms[i], whole.reader.bytes[i], whole.reader.bits[i])
            if i < 10:
                record.transformer.add(whole.transformer.position[i], 0.5, whole.transformer.bytes[i])
            panel.show(last=i == 39)
    text = shown.getvalue()
    assert "40,960" in text and "1.930" in text and "MB" in text
    if not terminal:
        assert 18 <= text.count("\n") <= 22 and "\x1b" not in text
