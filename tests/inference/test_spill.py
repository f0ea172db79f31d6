"""Sessions whose blocks are in a page file: the same numbers, and nothing is lost when the disk fails."""

from __future__ import annotations

import copy
import errno
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import InputError, SpillFailed
from siltstone.inference.program import CompiledStep
from siltstone.io import system
from siltstone.models.stream_state import LMState
from siltstone.state import Spill
from siltstone.state import spilled as spilled_module
from siltstone.state.spilled import SpilledStore
from siltstone.text import ByteTokenizer
from tests.inference.test_attended import KEYS

TEXT = "In the beginning there were forty-one bytes, and then there were some more of them. "


def make(**keys: Any) -> Any:
    torch.manual_seed(0)
    return st.LM(st.LMConfig.from_dict(KEYS | keys)).eval().requires_grad_(False)


def pair(folder: Path, kind: str = "float32", **keys: Any) -> tuple[st.Session, st.Session]:
    model = make(checkpoint_dtype=kind, **keys)
    return st.Session(model, ByteTokenizer(), "eager"), st.Session(model, ByteTokenizer(), "eager", Spill(folder, pool=200))


def spilled(session: st.Session) -> list[bool]:
    return [isinstance(x.kept, SpilledStore) for x in session._state.layers if hasattr(x, "kept")]  # type: ignore[attr-defined]


def same(a: st.Session, b: st.Session) -> None:
    assert torch.equal(a._last_logits(), b._last_logits()) and spilled(b) == [True, True]
    mine, yours = a._state.tensors(), b._state.tensors()
    assert mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)
    assert a._state.nbytes == b._state.nbytes


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_the_same_numbers(kind: str, tmp_path: Path) -> None:
    """Read, written, forked, gone back, saved, and loaded with and without a page file."""
    plain, other = pair(tmp_path, kind)
    for piece in (TEXT, "a", "b", TEXT[:30]):
        assert torch.equal(plain.append_scored(piece).nan_to_num(), other.append_scored(piece).nan_to_num())
        same(plain, other)
    assert "".join(plain.generate(30, seed=1)) == "".join(other.generate(30, seed=1))
    mark, twin = other.snapshot(), other.fork()
    twin.append("another future" * 3)
    other.append("gone" * 9)
    other.rollback(mark)
    same(plain, other)
    plain.append("!" * 9)
    other.append("!" * 9)
    same(plain, other)
    other.save(tmp_path / "a.silt")
    model = plain.model
    for spill in (None, tmp_path, Spill(tmp_path)):
        again = st.Session.load(tmp_path / "a.silt", model, ByteTokenizer(), "eager", spill)
        assert again.spills == (spill is not None) and spilled(again) == [spill is not None] * 2
        assert torch.equal(again.append_scored(TEXT), plain.fork().append_scored(TEXT))
    assert os.listdir(tmp_path) == ["a.silt"]


def test_rows_and_copies(tmp_path: Path) -> None:
    """States of several files, selected and put together, step and call as plain ones do."""
    model = make(checkpoint_dtype="int8")
    ids = torch.randint(0, 259, (3, 60))
    whole = model(ids)[0]
    states = [model(ids[i : i + 1, : 20 + 9 * i])[1].spilled(Spill(tmp_path)) for i in range(3)]
    joined = LMState.cat([states[2], model(ids[1:2, :29])[1], states[0]])
    assert all(isinstance(x.kept, SpilledStore) for x in (joined.layers[0], copy.deepcopy(states[0].layers[0])))  # type: ignore[attr-defined]
    first = LMState.cat([states[0].fork(), states[0].fork(), states[0].fork()])
    placed = first.placed(np.array([1, 0]), [model(ids[1:2, :29])[1], states[2]])
    assert isinstance(placed.layers[0].kept, SpilledStore)  # type: ignore[attr-defined]
    every = (joined, pickle.loads(pickle.dumps(joined)), joined.select([0, 1, 2]), joined.fork(), joined.flat(), placed)
    for state in every:
        for t in range(9):
            at = [38 + t, 29 + t, 20 + t]
            y, state = model.step(ids[[2, 1, 0], at], state)
            assert torch.allclose(y, whole[[2, 1, 0], at], atol=1e-5)
    y, _ = model(torch.stack([ids[2, 38:50], ids[1, 29:41], ids[0, 20:32]]), joined)
    assert torch.allclose(y, torch.stack([whole[2, 38:50], whole[1, 29:41], whole[0, 20:32]]), atol=1e-5)


def test_compiled_steps(tmp_path: Path) -> None:
    """One program serves any length of a text: blocks are no part of it."""
    model = make()
    compiled = CompiledStep(model, "all", backend="eager")
    plain = state = model(torch.arange(40)[None])[1].spilled(Spill(tmp_path))
    for t in range(70):
        y, state = compiled.step(torch.tensor([t]), state, inplace=False)
        z, plain = model.step(torch.tensor([t]), plain, inplace=False)
        assert torch.allclose(y, z, atol=1e-5)
    assert compiled.compiled == 2 and isinstance(state.layers[0], type(plain.layers[0]))


@pytest.mark.parametrize("text", ["long", "step"])
def test_a_full_disk_changes_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = pair(tmp_path)
    for session in (plain, other):
        session.append(TEXT)
    full = True
    write = system.write_at

    def limited(handle: int, data: Any, offset: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data, offset)

    monkeypatch.setattr(system, "write_at", limited)
    pieces = [TEXT] if text == "long" else list("some single tokens")
    with pytest.raises(SpillFailed, match="cannot be written"):
        for piece in pieces:
            other.append(piece)
            plain.append(piece)
    same(plain, other)
    other.save(tmp_path / "kept.silt")
    full = False
    for session in (plain, other):
        session.append(TEXT + "and on")
    same(plain, other)


@pytest.mark.parametrize("text", ["long", "step"])
def test_a_page_that_is_lost_changes_nothing(text: str, tmp_path: Path) -> None:
    plain, other = pair(tmp_path)
    for session in (plain, other):
        session.append(TEXT)
    file = other._state.layers[0].kept.file  # type: ignore[attr-defined]
    file._pool.clear()
    os.ftruncate(file._handle, 0)
    with pytest.raises(SpillFailed, match="cannot be read back"):
        for piece in [TEXT] if text == "long" else list("some single tokens"):
            other.append(piece)
            plain.append(piece)
    assert other.position == plain.position and torch.equal(other._last_logits(), plain._last_logits())
    with pytest.raises(SpillFailed, match="cannot be read back"):
        other.save(tmp_path / "lost.silt")
    assert os.listdir(tmp_path) == []


def test_freed_memory_is_given_back_as_the_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    spill = Spill(tmp_path, pool=10_000)
    session = st.Session(make(), st.ByteTokenizer(), spill=spill)
    monkeypatch.setattr(spilled_module, "give_back_freed_memory", lambda: given.append(session.position))
    for _ in range(40):
        session.append(TEXT[:50])
    written = sum(file.written for file in spill._files.values())
    assert 3 < len(given) <= written // 10_000 and sorted({*given}) == given
    assert spill.resident <= 10_000 + 500


def test_what_has_no_page_file(tmp_path: Path) -> None:
    tok = ByteTokenizer()
    with pytest.raises(InputError, match="no layer of this one has blocks; leave spill out"):
        st.Session(st.LM(st.presets.nano(259)), tok, spill=tmp_path)
    with pytest.raises(InputError, match="without a budget; leave spill out"):
        st.Session(make(max_checkpoints=3), tok, spill=tmp_path)
    with pytest.raises(SpillFailed, match="no page file can be made in .*nowhere"):
        st.Session(make(), tok, spill=tmp_path / "nowhere")
    for pool in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="pool=.* must be a whole number"):
            Spill(tmp_path, pool=pool)  # type: ignore[arg-type]
