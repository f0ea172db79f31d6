"""Recall: its streams ask what they told, its page says what was found, and every arm is a model that trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recall(tool: Any) -> Any:
    return tool("recall")


def test_every_key_is_asked_once_and_its_value_is_the_answer(recall: Any) -> None:
    ids, places, values = recall.batch(3, torch.Generator().manual_seed(0))
    for row, asked, answers in zip(ids, places, values, strict=True):
        told = dict(row[: 2 * recall.PAIRS].unflatten(0, (-1, 2)).tolist())
        assert len(told) == recall.PAIRS == len(set(asked.tolist())) and int(asked.min()) >= 2 * recall.PAIRS
        assert [told[key] for key in row[asked].tolist()] == answers.tolist()
        assert int((row[2 * recall.PAIRS :] > 0).sum()) == recall.PAIRS


def test_the_page_is_what_was_found(recall: Any) -> None:
    rows = json.loads((ROOT / "docs/recall.json").read_text("utf-8"))
    assert {row["arm"] for row in rows} == {*recall.ARMS} and {row["seed"] for row in rows} == {0, 1}
    assert (ROOT / "docs/recall.md").read_text("utf-8") == recall.page(rows)
    assert (ROOT / "docs/recall.svg").read_text("utf-8") == recall.drawn(rows)
    right = {(row["arm"], row["seed"]): row["right"] for row in rows}
    for seed in (0, 1):  # as the page says
        assert right["gated, subblock:4", seed] > max(
            right["gated, mean", seed], right["no checkpoints, a state as large as 16", seed]
        )
        assert right["sparse top-2, mean", seed] < 0.01


def test_arms_are_random_where_they_say_so(recall: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recall, "ROWS", 2)
    asked: list[int] = []
    chance = recall.by_chance
    monkeypatch.setattr(recall, "by_chance", lambda *given: asked.append(1) or chance(*given))
    assert (
        recall.main(["--steps", "1", "--seeds", "0", "--arms", "sparse top-2, at;sparse top-2, mean, s", "--out", str(tmp_path)])
        == 0
    )
    rows = json.loads((tmp_path / "recall.json").read_text("utf-8"))
    assert [row["arm"] for row in rows] == ["sparse top-2, at random", "sparse top-2, mean, shared"]
    assert asked and all(0 <= row["right"] < 0.1 and row["state_bytes"] for row in rows)
