"""The script of loads measures a server from outside, and its figures are written into the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_loads_are_measured(url: str, tool: Callable[[str], ModuleType]) -> None:
    load = tool("load")
    asked = load.parsed(["--url", url, "--model", "demo", "--small", "--scenarios", "levels", "many"])
    asked.sessions, asked.turns = 4, 1
    found = load.loaded(asked)
    assert [x["clients"] for x in found["levels"]] == [1, 3]
    for x in (*found["levels"], found["many"]):
        assert 0 < x["read_per_answer"] < 40 and x["first_ms"]["p95"] >= x["first_ms"]["median"] > 0  # no document again
        assert x["written_per_second"] > 0 and x["between_ms"]
    assert found["many"]["answers"] == 4 and found["many"]["read_per_second"] > 0
    with pytest.raises(SystemExit, match="look into"):
        load.loaded(load.parsed(["--url", url, "--scenarios", "churn"]))


def test_the_page_has_the_committed_figures(
    tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizing = tool("sizing_page")
    assert sizing.PAGE.read_text("utf-8") == sizing.page(), "run `python tools/sizing_page.py`"
    monkeypatch.setattr(sizing, "RESULTS", tmp_path / "results.json")
    for label, first in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        times = {"median": first, "p95": 9.5}
        level = {"clients": 1, "tokens": 5, "first_ms": times, "between_ms": None, "written_per_second": 7.5}
        (tmp_path / "new.json").write_text(json.dumps({"label": label, "levels": [level | {"read_per_answer": None}]}))
        sizing.add(tmp_path / "new.json")
    text = sizing.section(json.loads((tmp_path / "results.json").read_text()))
    assert "| a | 1 | 5 | 3 (9.5) | – | 7.5 | – |\n| b | 1 | 5 | 2 (9.5) |" in text and "1 (9.5)" not in text
