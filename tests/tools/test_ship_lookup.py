"""The figures of the model that looks things up, beside its twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.demo import LOOKUP
from siltstone.eval.run import make


def test_every_figure_has_a_cell_for_each_model(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship, heads = tool("ship_lookup"), {}
    for i, name in enumerate(ship.MODELS):
        torch.manual_seed(i)
        model = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1, window=8, pattern="w"))
        st.save(model, st.ByteTokenizer(), tmp_path / "models" / name)
        heads[name] = f"{name}, {model.parameters_count:,} parameters"
    (tmp_path / "test").mkdir()
    for i in range(2):
        text = " ".join(f"It was the {n * (i + 3)}th day, and nothing had come." for n in range(30))
        (tmp_path / "test" / f"{i}.txt").write_text(text, "utf-8")
    wanted = [
        (task, (lengths[0] and 300,), score, words) for task, lengths, score, words in ship.SHOWN if task in ("repeats", "depth")
    ]
    wanted.append(("told_20", (0,), "ranked first", ship.SHOWN[0][3]))
    figures = ship.figures
    monkeypatch.setattr(ship, "figures", lambda folders, books, size: figures(folders, books, size, 256, wanted))
    given = [str(tmp_path / "models"), "--test", str(tmp_path / "test"), "--out", str(tmp_path / "out"), "--seeds", "1"]
    assert ship.main([*given, "--items", "2"]) == 0
    found = json.loads((tmp_path / "out/evidence.json").read_text("utf-8"))
    assert found["columns"] == ["", *heads.values()] and "on 2 held-out books" in found["caption"]
    rows = {row[0]: row[1:] for row in found["rows"]}
    assert len(rows) == 4 + 3 and not any("-" == cell for cells in rows.values() for cell in cells)
    same = rows["bits per byte at 0 to 64 tokens, and the difference to lookup"]
    assert ", " not in same[0] and all(", +" in cell or ", -" in cell for cell in same[1:])
    assert st.load(tmp_path / "out")[0].cfg == st.load(tmp_path / "models/lookup")[0].cfg


def test_what_is_shown_exists(tool: Any) -> None:
    ship = tool("ship_lookup")
    for task, lengths, _, words in ship.SHOWN:
        assert make(task).kind == "text" and lengths and words.count("{") >= 1
    recorded = json.loads((LOOKUP / "evidence.json").read_text("utf-8"))
    assert recorded["columns"][1].startswith("lookup, 2,385,670") and all(len(row) == 4 for row in recorded["rows"])
