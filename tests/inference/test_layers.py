"""Models whose blocks differ: their sessions, and what is told of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.errors import SessionMismatch
from siltstone.text import ByteTokenizer
from tests.cli.commands import good


def test_inspect_where_blocks_differ(make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    model = make_model(depth=4, pattern="mmmw", layers={"1": {"segment": 16, "window": 12}})
    session = st.Session(model, tok)
    session.append([65] * 50)
    session.save(tmp_path / "a.silt")
    assert st.Session.load(tmp_path / "a.silt", model, tok).position == 50
    found = json.loads(good("inspect", tmp_path / "a.silt", "--json").stdout)
    assert [bank["blocks"] for bank in found["banks"]] == [[0, 2], [1]] and found["memory_layers"] == 3
    kept = [int(n[0]) for n in session._state.checkpoints()]
    assert [len(found["banks"][i]["checkpoints"]) for i in (0, 1, 0)] == kept == [5, 2, 5]
    shown = good("inspect", tmp_path / "a.silt").stdout
    assert "Checkpoints: 5 in blocks 0, 2" in shown and "Checkpoints: 2 in block 1" in shown
    assert "block 1: segment 16, window 12" in " ".join(re.sub("[^ -~]", " ", shown).split())


def test_a_session_belongs_to_the_layers_that_wrote_it(make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    model = make_model(layers={"0": {"window": 4}})
    session = st.Session(model, tok)
    session.append("Some words, and some more.")
    session.save(tmp_path / "a.silt")
    back = st.Session.load(tmp_path / "a.silt", model, tok)
    assert list(back.generate(8, temperature=0)) == list(session.generate(8, temperature=0))
    with pytest.raises(SessionMismatch, match="layers is {'0': {'window': 4}} there and {} here"):
        st.Session.load(tmp_path / "a.silt", make_model(), tok)
