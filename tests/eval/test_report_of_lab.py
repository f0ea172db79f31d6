"""The report of the laboratory: every arm is named in its frontiers, and names that would overlap are joined."""

from __future__ import annotations

import re
from typing import Any

import pytest

from siltstone.report.compare import routing_figure
from siltstone.report.lab import lab_report
from siltstone.report.svg import Line, plot, ticks


def run(arm: str, right: float, size: int) -> dict[str, Any]:
    """A finished run of an arm."""
    costs = {"parameters": 1000, "state_bytes": size, "bytes_read": size, "flops": size}
    at = {"length": 64, "load": 4}
    rows = [{"score": "right", "at": at, "mean": right, "count": 4}]
    for score, key, values in (("right by depth", "depth", (0, 50, 100)), ("nats by position", "position", (16, 32))):
        rows += [{"score": score, "at": {"length": 64, key: x}, "mean": 0.5, "count": 4} for x in values]
    routes = {"segment": 8, "rows": [{"position": 16, "shares": [1.0]}, {"position": 24, "shares": [0.25, 0.75]}]}
    return {
        "arm": arm, "seed": 0, "right": {"64": right}, "routing_hits": {}, "rows": rows, "routes": routes, "costs": costs,
        "curve": [[10, 2.0], [20, 1.0]], "steps": 20, "tokens": 1280, "seconds": 1.0, "device": "cpu",
    }  # fmt: skip


def report(runs: list[dict[str, Any]]) -> str:
    lab = {"question": "Which?", "task": "mqar", "seeds": [0], "items": 4}
    return lab_report({"lab": lab, "runs": runs, "command": "siltstone lab FILE.py:which --folder here"})


def test_it_has_every_part() -> None:
    page = report([run("gated", 0.5, 2000), run("sparse", 0.75, 1000), run("exact", 0.1, 9000)])
    for part in (
        "Which?",
        "Accuracy",
        "Depth by length",
        "Loss by position",
        "Frontiers",
        "Routing",
        "Training and cost",
        "Commands",
    ):
        assert f">{part}</h" in page
    assert "1 gated, 2 sparse, 3 exact" in page and "siltstone lab FILE.py:which --folder here" in page
    assert "Routing: sparse" in page and page.count("75%") >= 2
    old = run("gated", 0.5, 2000)
    del old["routes"]  # of an earlier version
    assert ">Routing</h2>" not in report([old])


@pytest.mark.parametrize("dots", [[0.1, 0.9, 0.5], [0.0] * 20 + [1.0]])
def test_every_point_with_a_name_is_shown(dots: list[float]) -> None:
    tags = [f"arm {i}" for i in range(len(dots))]
    xs = [100.0 * 2**i for i in range(len(dots))]
    drawn = plot([Line("best", xs, dots, dots=dots, tags=tags)], "t", "x", log_x=True)
    assert drawn.count('r="1.8"') == len(dots)
    shown = re.findall(r'text-anchor="middle">([^<]*arm[^<]*)<', drawn)
    assert sorted(x for text in shown for x in text.split(", ")) == sorted(tags)


def test_names_at_one_place_are_joined() -> None:
    drawn = plot([Line("best", [1, 1, 9], [0.5, 0.5, 1.0], dots=[0.5, 0.5, 1.0], tags=["1", "2", "3"])], "t", "x")
    assert ">1, 2<" in drawn and ">3<" in drawn


def test_a_narrow_range_has_ticks_too() -> None:
    assert ticks(830_000, 990_000, True) == [850_000, 900_000, 950_000]
    assert ticks(1.0, 1000.0, True) == [1, 10, 100, 1000]


@pytest.mark.parametrize("size", [(350, 270), (980, 320)])
def test_long_names_leave_room_for_the_lines(size: tuple[int, int]) -> None:
    """On a phone names stand below the title; numbers below the axis do not overlap."""
    lines = [
        Line(name, [1, 10, 300], [1, 2, y], "ab"[y]) for y, name in enumerate(["sparse, dense first, routing loss", "gated"])
    ]
    drawn = plot(lines, "Loss", "steps", size=size)
    wide, tall = (float(x) for x in re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawn)[0])
    axis = re.findall(r'<line class="axis" x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)" y2="\3"', drawn)[0]
    assert float(axis[1]) - float(axis[0]) > 0.42 * wide
    ends = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">\d+</text>', drawn)]
    assert len(ends) > 2 and min(b - a for a, b in zip(ends, ends[1:], strict=False)) > 24
    places = re.findall(r'<text class="[ab]" x="([\d.]+)" y="([\d.]+)">', drawn)
    assert len({y for _, y in places}) == 2 and all(float(x) < wide and float(y) < tall for x, y in places)
    assert (tall > size[1]) == (size[0] < 500) == all(x == "8.0" for x, _ in places)


def test_a_map_on_a_phone_has_no_empty_rows() -> None:
    rows = [{"position": 8 * n + 8, "shares": [1 / n] * n} for n in range(1, 13)]
    broad, narrow = (
        part.split("</svg>")[0] for part in routing_figure("sparse", {"segment": 8, "rows": rows}).split("wide ")[1:]
    )
    assert broad.count('text-anchor="end"') == 12 and broad.count("<rect") == 78
    assert narrow.count('text-anchor="end"') == 6 and narrow.count("<rect") == 21
