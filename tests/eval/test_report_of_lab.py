"""The report of the laboratory: every arm is named in its frontiers, and names that would overlap are joined."""

from __future__ import annotations

import re
from typing import Any

import pytest

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
