"""Answers without a passage, on sessions with blocks: whole characters are left out, and pages stay in their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.inference import asking, documents
from tests.inference.conftest import small_model
from tests.inference.test_asking import KEYS

TEXT = "The gate is 绿色 and the door is 红色. " * 12


@pytest.fixture
def doc(tmp_path: Path) -> Path:
    (tmp_path / "doc.txt").write_text(TEXT, "utf-8")
    return tmp_path / "doc.txt"


def told(doc: Path, spill: Any = None) -> st.Session:
    session = st.Session(small_model(depth=2, **KEYS), st.ByteTokenizer(), spill=spill)
    asking.begin(session)
    for _ in documents.read(session, documents.surveyed(doc)):
        pass
    return session


@pytest.mark.parametrize("first", range(10, 20))
@pytest.mark.parametrize("end", range(20, 24))
def test_a_passage_that_cuts_characters(first: int, end: int, doc: Path) -> None:
    """The bytes of a character that stands on the border are left out with it."""
    session, data = told(doc), TEXT.encode()
    begun = session.position - len(data)
    (passage,) = documents.passages(session, [(begun + first, begun + end)])
    twin, want = asking.without(session, passage), session.fresh()
    asking.begin(want)
    want.append(data[:first].decode("utf-8", "ignore") + data[end:].decode("utf-8", "ignore"))
    assert twin.position == want.position
    torch.testing.assert_close(twin.logits, want.logits)


def test_a_check_spills_where_its_session_does(doc: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    session = told(doc, tmp_path / "pages")
    (passage,) = documents.passages(session, [(40, 60)])
    twin = asking.without(session, passage)
    assert twin.spills and twin._spill is session._spill
    question = asking.Question(session, "Which gate?")
    question.read()
    answer = "".join(question.write(4))
    (check,) = question.check([passage], answer, 4)
    assert check.tokens > len(TEXT.encode()) - 20


def test_places_outside_of_documents_take_no_room(doc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five passages are shown, though what stands before and behind the documents was attended to more."""
    session = told(doc)
    session.append("Other text that is no document. " * 4)
    end = documents.documents(session)[0].tokens
    far = [(end + 8 * i, end + 8 * i + 4, 9.0) for i in range(6)] + [(8 + 12 * i, 12 + 12 * i, 1.0) for i in range(7)]
    monkeypatch.setattr(st.Session, "attended", lambda self: far)
    question = asking.Question(session, "Which gate?")
    question.read()
    found = question.passages()
    assert found is not None and [x.tokens for x in found] == [(8 + 12 * i, 12 + 12 * i) for i in range(5)]
    assert len(question.attended_by_question()) == 5
