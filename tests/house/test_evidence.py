"""docs/evidence.md is what tools/evidence_page.py makes of the committed results, and says what caching does not do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from siltstone.train.lab import found_recipe

RUN = {
    "arm": "gated",
    "seed": 0,
    "right": {"64": 0.5},
    "routing_hits": {},
    "steps": 4,
    "tokens": 10,
    "seconds": 1.0,
    "device": "cpu",
}
RUN |= {"costs": {"parameters": 1, "state_bytes": 2000, "bytes_read": 3, "flops": 4}, "rows": [1], "curve": [2]}
LAB = {
    "question": "Q?",
    "task": "mqar",
    "options": {},
    "train": [64],
    "items": 2,
    "recipe": {"steps": 4, "batch": 2, "minutes": None},
}


def test_the_page_of_evidence_is_up_to_date(tool: Callable[[str], ModuleType]) -> None:
    page = tool("evidence_page")
    text = page.PAGE.read_text("utf-8")
    assert text == page.page(), "run `python tools/evidence_page.py`"
    assert "## What caching does not do" in text


def test_tables_of_results(tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tool("evidence_page")
    monkeypatch.setattr(page, "RESULTS", tmp_path / "evidence")
    (tmp_path / "lab.json").write_text(json.dumps({"command": "siltstone lab", "lab": LAB, "key": "k", "runs": [RUN]}))
    bucket = {"from": 0, "to": 64, "bits_per_byte": 2.0, "difference": -0.5, "low": -0.6, "high": -0.4}
    entries = [{"name": name, "buckets": [bucket]} for name in ("a", "b")]
    (tmp_path / "two.json").write_text(json.dumps({"command": "siltstone compare", "parts": 3, "length": 64, "entries": entries}))
    page.add(tmp_path / "lab.json", "one")
    page.add(tmp_path / "two.json", "two")
    assert "curve" not in json.loads((tmp_path / "evidence/one.json").read_text())["runs"][0]
    text = page.page()
    assert "| gated | 0.500 (0.500) | - | 10 | 1 | 2,000 | 3 | 4 |" in text and "One seed" in text
    assert "| 0 to 64 | 2.0000 | 2.0000 | -0.5000 (-0.6000 to -0.4000) |" in text


def test_results_of_one_load_a_seed_have_no_means(
    tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tool("evidence_page")
    monkeypatch.setattr(page, "RESULTS", tmp_path / "evidence")
    runs = [RUN | {"loads": {"64": [8]}}, RUN | {"arm": "none", "seed": 1, "loads": {"64": [16]}, "right": {"64": 0.25}}]
    lab = LAB | {"recipe": {"steps": 4, "batch": 2, "minutes": 0.5}}
    (tmp_path / "lab.json").write_text(json.dumps({"command": "c", "lab": lab, "notes": ["Said plainly."], "runs": runs}))
    page.add(tmp_path / "lab.json", "one")
    text = page.page()
    assert "4 steps or 0.5 minutes of 2 rows; 2 test streams a length and seed, of one load" in text and "mean ±" not in text
    assert "| arm | seed 0: 8 pairs | seed 1: 16 pairs |" in text and "Said plainly." in text
    assert (
        "| gated | 0.500 (4) | - |" in text and "| none | - | 0.250 (4) |" in text and "| none | 10 | 1 | 2,000 | 3 | 4 |" in text
    )


def test_the_recipe_of_committed_results_is_theirs(tool: Callable[[str], ModuleType]) -> None:
    """Results whose command names a recipe beside them: the recipe has their settings, arms and seeds."""
    page, files = tool("evidence_page"), 0
    for file in sorted(page.RESULTS.glob("*.py")):
        found = json.loads(file.with_suffix(".json").read_text("utf-8"))
        assert f"docs/evidence/{file.name}:pairs" in found["command"]
        lab = json.loads(json.dumps(dataclasses.asdict(found_recipe(f"{file}:pairs"))))
        recipe = found["lab"].pop("recipe")
        assert lab | found["lab"] == lab and lab["recipe"] | recipe == lab["recipe"]
        assert {run["arm"] for run in found["runs"]} == set(lab["arms"])
        assert {run["seed"] for run in found["runs"]} <= set(lab["seeds"])
        files += 1
    assert files
