"""Sessions of models whose segments end by content: line by line, saved, gone back in, shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import SessionCorrupt, TokenizerError
from siltstone.eval import by_position
from siltstone.inference import silt
from siltstone.inference.describe import describe
from siltstone.inference.pieces import pieces
from siltstone.inference.reader import Reader
from siltstone.inference.receipt import growth

TEXT = "one line\ntwo\n\nand a line that is longer than all of the others here\nfour\nfive"
ENDS = [i for i, c in enumerate(TEXT) if c == "\n"]


@pytest.fixture
def lined(make_model: Any, tok: st.ByteTokenizer) -> st.Session:
    return st.Session(make_model(segments="content", segment=32), tok)


def cuts(session: st.Session) -> list[int]:
    return session._state.positions.cuts[0].tokens.tolist()


def test_lines_are_cut_however_they_come(lined: st.Session) -> None:
    twin = lined.fork()
    lined.append(TEXT)
    for character in TEXT:
        twin.append(character)
    assert cuts(lined) == cuts(twin) == ENDS
    want, _ = lined.model(torch.tensor([list(TEXT.encode())]), cut=torch.tensor([[c == "\n" for c in TEXT]]))
    assert lined.logits is not None and twin.logits is not None
    torch.testing.assert_close(lined.logits, want[0, -1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(twin.logits, want[0, -1], rtol=1e-4, atol=1e-4)
    assert lined._state.checkpoints()[0].tolist() == [5]  # ends of four lines, and a long one full once


def test_going_back_cuts_again(lined: st.Session, same: Any) -> None:
    lined.append(TEXT[:10])
    mark = lined.snapshot()
    lined.append(TEXT[10:40])
    twin = lined.fork()
    lined.append(TEXT[40:])
    assert cuts(lined) == ENDS
    assert lined.rollback(40) == 30
    assert cuts(lined) == [e for e in ENDS if e < 40] and mark.live
    assert same(lined, twin)
    assert torch.isfinite(lined.score("a\nb\nc")).all() and same(lined, twin)


def test_a_file_keeps_the_cuts(lined: st.Session, tmp_path: Path, same: Any) -> None:
    for text in ("", TEXT, "no more lines " * 9):
        lined.append(text)
        lined.save(tmp_path / "a.silt")
        back = st.Session.load(tmp_path / "a.silt", lined.model, lined.tokenizer)
        assert same(back, lined)
    for s in (lined, back):
        s.append("\nand on\n")
        for _ in s.generate(5):
            pass
    assert same(back, lined)


def test_files_are_described_with_the_lines(lined: st.Session, tmp_path: Path) -> None:
    lined.append(TEXT)
    lined.save(tmp_path / "a.silt")
    found = describe(tmp_path / "a.silt")
    edges = [0, 9, 13, 14, 46, 68]
    assert found["checkpoints"] == list(zip(edges[:-1], edges[1:], strict=True))
    assert [len(found["checkpoints"])] == lined._state.checkpoints()[0].tolist()
    assert sum(found["parts"].values()) > lined._state.nbytes == sum(lined._state.parts().values())
    assert growth(lined.model.cfg).startswith("O(cuts + t/C):")


@pytest.mark.parametrize(
    "change",
    [
        lambda h, t: t.pop("state.cuts"),
        lambda h, t: t["state.cuts"].neg_(),
        lambda h, t: t["state.cuts"].copy_(t["state.cuts"].flip(0)),
        lambda h, t: h["state"].update(cuts=[2**62]),
        lambda h, t: h["state"].update(cuts="five"),
        lambda h, t: h.update(position=5),
    ],
)
def test_altered_cuts_are_found(lined: st.Session, tmp_path: Path, change: Any) -> None:
    lined.append(TEXT)
    lined.save(tmp_path / "a.silt")
    header, tensors = silt.read(tmp_path / "a.silt")
    change(header, tensors)
    silt.write(tmp_path / "a.silt", {k: v for k, v in header.items() if k != "format"}, tensors)
    with pytest.raises(SessionCorrupt):
        st.Session.load(tmp_path / "a.silt", lined.model, lined.tokenizer)
    with pytest.raises(SessionCorrupt):
        describe(tmp_path / "a.silt")


def test_other_places_to_cut_at(make_model: Any, tok: st.ByteTokenizer) -> None:
    for at, found in ((".", [1, 6]), (None, [])):
        session = st.Session(make_model(segments="content", cut_at=at), tok)
        session.append("a.\nbb\n.")
        assert cuts(session) == ([1, 6] if at else found)
    with pytest.raises(TokenizerError, match="cut_at='ab'.*one token"):
        st.Session(make_model(segments="content", cut_at="ab"), tok)
    plain = st.Session(make_model(), tok)  # nothing is cut where segments are constant
    plain.append("ab\n")
    assert plain._state.positions.cuts == ()


def test_a_stream_by_lines_is_cut_by_lines(lined: st.Session) -> None:
    reader = Reader(lined)
    for piece in pieces(io.BytesIO(TEXT.encode()), lines=True):
        reader.feed(piece)
    assert cuts(lined) == ENDS


def test_documents_are_scored_with_their_cuts(lined: st.Session) -> None:
    """By position as by session."""
    found = by_position(lined.model, lined.tokenizer, [TEXT], buckets=[0, len(TEXT)])["bits_per_byte"]
    bits = -lined.append_scored(TEXT)[1:].double().numpy() / np.log(2)
    assert abs(found - bits.mean()) < 1e-5
