"""Sessions of models with a budget of checkpoints, and with checkpoints in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.errors import SessionCorrupt
from siltstone.inference import silt
from siltstone.inference.describe import describe
from siltstone.text import ByteTokenizer

TEXT = "Some words, and then some more, and again a few of them, so that many segments are sealed — é."


@pytest.mark.parametrize("evict", ["age", "use", "merge"])
def test_a_session_with_a_budget(make_model: Any, tok: ByteTokenizer, tmp_path: Path, same: Any, evict: str) -> None:
    model = make_model(max_checkpoints=3, evict=evict, checkpoint_dtype="int8")
    s = st.Session(model, tok)
    s.append(TEXT)
    s.save(tmp_path / "a.silt")
    back = st.Session.load(tmp_path / "a.silt", model, tok)
    assert same(s, back)
    for session in (s, back):
        session.append(TEXT[:30])
    assert same(s, back)
    found = describe(tmp_path / "a.silt")
    assert found["growth"] == "O(1): a budget of checkpoints"
    spans = found["checkpoints"]
    number = (s.position - 30 - 8 - 1) // 8  # sealed when the file was written
    assert len(spans) == 3 and spans[-1][1] == number * 8
    assert all(a < b for a, b in spans) and all(x[1] <= y[0] for x, y in zip(spans[:-1], spans[1:], strict=True))
    if evict == "age":
        assert spans[0][0] == (number - 3) * 8
    if evict == "merge":
        assert spans[0][0] == 0 and all(x[1] == y[0] for x, y in zip(spans[:-1], spans[1:], strict=True))


def test_a_budget_keeps_a_session_small(make_model: Any, tok: ByteTokenizer) -> None:
    sizes = []
    for keys in ({}, {"max_checkpoints": 4}, {"max_checkpoints": 4, "checkpoint_dtype": "int8"}):
        s = st.Session(make_model(**keys), tok)
        s.append(TEXT * 4)
        sizes.append(s.nbytes)
    assert sizes[0] > sizes[1] > sizes[2]


def test_made_up_banks_are_refused(make_model: Any, tok: ByteTokenizer) -> None:
    for keys, name, wrong in (
        (dict(max_checkpoints=3, evict="use"), "bank.last", lambda x: x - 9),
        (dict(max_checkpoints=3, evict="use"), "bank.last", lambda x: x.flip(1)),
        (dict(max_checkpoints=3, evict="use"), "bank.span", lambda x: x + 2**40),
        (dict(max_checkpoints=3, evict="use"), "bank.mass", lambda x: x * float("nan")),
        (dict(max_checkpoints=3, evict="use"), "bank.span", lambda x: x[:, :1]),
        (dict(max_checkpoints=3, evict="use"), "bank.last", lambda x: x.double()),
        (dict(segments="logarithmic"), "bank.sums", lambda x: x[:, :1]),
        (dict(segments="logarithmic"), "bank.fades.spans", lambda x: x[:, :1]),
    ):
        model = make_model(**keys)
        s = st.Session(model, tok)
        s.append(TEXT)
        tensors, meta = s._state.tensors(), s._state.meta()
        assert model.load_state(dict(tensors), meta).position.tolist() == [s.position]
        (found,) = [n for n in tensors if n == f"layers.0.{name}"]
        with pytest.raises(ValueError):
            model.load_state(tensors | {found: wrong(tensors[found])}, meta)


@pytest.mark.parametrize("change", [{"span": (1, 5)}, {"span": (0, 60)}, {"last": (1, 0)}, {"writes": (0, 2**62)}])
def test_checkpoints_that_overlap_are_refused(change: dict[str, tuple[int, int]], make_model: Any, tmp_path: Path) -> None:
    model, tok = make_model(max_checkpoints=3, evict="merge", memory="linear"), ByteTokenizer()
    session = st.Session(model, tok)
    session.append("Some words, and then some more of the same, to the very end of it.")
    session.save(tmp_path / "a.silt")
    header, tensors = silt.read(tmp_path / "a.silt")
    for name, (place, value) in change.items():
        tensors[f"state.layers.0.bank.{name}"][0, place] = value
    silt.write(tmp_path / "a.silt", header, tensors)
    with pytest.raises(SessionCorrupt, match="does not hold"):
        st.Session.load(tmp_path / "a.silt", model, tok)
