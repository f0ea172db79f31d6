"""Documents that were read: found again in their files by token positions; questions on forks, and their passages."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import DataError, InputError, SessionCorrupt
from siltstone.inference import asking, documents
from siltstone.inference.asking import Question, begin, quoted, without
from siltstone.inference.documents import MARKS, lacking, passages, read, surveyed
from siltstone.inference.pieces import pieces
from siltstone.text import Tokenizer
from tests.inference.conftest import small_model

LINES = "".join(f"Line {i}: the price of {i * 37 % 101} pears — é {'x' * (i % 7)}.\n" for i in range(160))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(LINES, "utf-8")
    return st.train_bpe(path, 330)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and distances between marks for small files."""
    monkeypatch.setattr(documents, "SPACING", 256)
    monkeypatch.setattr(documents, "pieces", functools.partial(pieces, size=300))


def flat(vocab: int = 259) -> st.LM:
    """A model of constant speed."""
    return small_model(vocab=vocab, pattern="w", depth=1)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "a.txt").write_text(LINES, "utf-8")
    (tmp_path / "b.txt").write_text("\n\nSecond. " + LINES[::-1], "utf-8")
    return [tmp_path / "a.txt", tmp_path / "b.txt"]


def told(session: st.Session, *files: Path) -> st.Session:
    begin(session)
    for one in lacking(session, [surveyed(file) for file in files]):
        assert [*read(session, one)][-1] == one.size
    return session


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_positions_are_found_again(kind: str, files: list[Path], bpe: Tokenizer) -> None:
    tokenizer: Tokenizer = st.ByteTokenizer() if kind == "bytes" else bpe
    s = told(st.Session(flat(330), tokenizer), *files)
    known = documents.documents(s)
    assert [one.path for one in known] == [str(file) for file in files] and all(len(one.marks) <= MARKS for one in known)
    assert known[0].first == 0 and known[1].first + known[1].tokens == s.position
    for number, (one, file) in enumerate(zip(known, files, strict=True)):
        data = file.read_bytes()
        assert one.size == one.read == len(data) and one.lines == data.count(b"\n") and len(one.marks) > 3
        ids = tokenizer.encode(data.decode())
        assert one.tokens == len(ids)
        at = [0, *itertools.accumulate(len(tokenizer.token_bytes(i)) for i in ids)]
        by = torch.Generator().manual_seed(number)
        for _ in range(9):
            a = int(torch.randint(one.tokens - 1, (), generator=by))
            b = min(one.tokens, a + 1 + int(torch.randint(90, (), generator=by)))
            (found,) = passages(s, [(one.first + a, one.first + b)])
            assert found.bytes == (at[a], at[b]) and found.document == number and found.path == str(file)
            text = data[at[a] : at[b]]
            assert found.text == text.decode("utf-8", "ignore")
            first = data[: at[a]].count(b"\n") + 1
            assert found.lines == (first, first + text.rstrip(b"\n").count(b"\n"))
    both = passages(s, [(known[1].first - 10, known[1].first + 5), (s.position, s.position + 5)])
    assert [x.document for x in both] == [0, 1] and both[1].bytes[0] == 0


def test_many_marks_are_thinned(tmp_path: Path) -> None:
    one = documents.Document("a", 10_000_000, "")
    for _ in range(5000):
        one.add(b"a\n" * 1000, 900)
    assert 30 < len(one.marks) <= MARKS and one.tokens == 4_500_000 and one.lines == 5_000_000


def test_what_was_read_is_not_read_again(files: list[Path], tmp_path: Path, same: Any) -> None:
    model, tok = flat(), st.ByteTokenizer()
    s = st.Session(model, tok)
    begin(s)
    begun = read(s, lacking(s, [surveyed(files[0])])[0])
    assert len([*itertools.islice(begun, 3)]) == 3
    s.save(tmp_path / "a.silt")
    again = st.Session.load(tmp_path / "a.silt", model, tok)
    assert again.notes == s.notes and 0 < documents.documents(again)[0].read < files[0].stat().st_size
    told(again, *files)
    whole = told(st.Session(model, tok), *files)
    assert same(again, whole) and again.notes == whole.notes
    assert again.counters.appended + again.counters.restored == whole.counters.appended
    assert lacking(again, [surveyed(file) for file in files]) == lacking(again, []) == []
    with pytest.raises(DataError, match=r"b\.txt is not .*a\.txt"):
        lacking(again, [surveyed(files[1])])
    files[0].write_text(LINES + "more", "utf-8")
    with pytest.raises(DataError, match=r"a\.txt has changed since the session read it"):
        lacking(again, [surveyed(files[0])])
    assert [documents.changed(one) for one in documents.documents(again)] == [True, False]
    with pytest.raises(DataError, match=r"a\.txt has changed"):
        passages(again, [(1, 5)])


def test_a_file_that_changes_while_it_is_read(files: list[Path]) -> None:
    s = st.Session(flat(), st.ByteTokenizer())
    one = surveyed(files[0])
    steps = read(s, one)
    next(steps)
    with files[0].open("r+b") as file:
        file.seek(one.size - 3)
        file.write(b"!!!")
    with pytest.raises(DataError, match="changed while it was read"):
        next(steps), list(steps)
    other = st.Session(flat(), st.ByteTokenizer())
    begun = read(other, surveyed(files[1]))
    next(begun)
    other.append("something else")
    (rest,) = lacking(other, [])
    with pytest.raises(InputError, match="then other text was"):
        next(read(other, rest))
    files[1].write_text("something else", "utf-8")
    other = st.Session(flat(), st.ByteTokenizer())
    other.append("." * rest.tokens)
    other.notes["documents"] = [dataclasses.asdict(rest)]
    with pytest.raises(DataError, match="has changed since the session read it, or a part of it"):
        next(read(other, rest))


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "is empty"), (b"a\0b", "is binary"), (b"abc\xff", "not valid UTF-8 at byte 3"), (None, "cannot be read")],
)
def test_documents_that_are_no_text(data: bytes | None, words: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.txt .*{words}|a\.txt {words}"):
        surveyed(tmp_path / "a.txt")
    with pytest.raises(DataError, match="directory"):
        surveyed(tmp_path)


@pytest.mark.parametrize(
    "change", [{"size": -1}, {"path": 5}, {"marks": [[1, 2]]}, {"read": 1 << 40}, {"more": 1}, {"marks": []}]
)
def test_notes_that_are_invalid(change: dict[str, Any], files: list[Path]) -> None:
    s = told(st.Session(flat(), st.ByteTokenizer()), files[0])
    s.notes["documents"][0] |= change
    with pytest.raises(SessionCorrupt, match="note of a document is invalid"):
        documents.documents(s)
    s.notes["documents"] = 5
    with pytest.raises(SessionCorrupt, match="note of its documents is invalid"):
        documents.documents(s)


class Attending(st.Session):
    """A session that says what it attended to: here, three fixed places."""

    def attended(self) -> list[tuple[int, int, float]]:
        return [(100, 140, 3.0), (3000, 3040, 2.0), (self.position - 3, self.position, 1.0)]


def test_an_answer_has_its_passages(files: list[Path], same: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s = told(Attending(flat(), st.ByteTokenizer()), files[0])
    before, one = s.fork(), Question(s, "What is the price?")
    one.read()
    answer = "".join(one.write(8))
    assert same(s, before) and s.notes == before.notes and one.fork.position > s.position
    found = one.passages()
    assert found is not None and [x.bytes for x in found] == [(100, 140), (3000, 3040)]
    checks = [*one.check(found, answer, 8)]
    assert len(checks) == 2 and all(x.changes == (x.answer != answer) for x in checks)
    again = one.attended_by_question()
    assert [x.bytes for x in again] == [(100, 140), (3000, 3040)]
    more = one.read(again) - len(one.text)
    assert more > 60 and same(s, before)
    other = s.fork()
    for passage in reversed(again):  # the most important one last, as a document is read
        other.append("\n\n" + passage.text.strip())
    st.Chat(other).read(one.text)
    assert torch.equal(one.fork.logits, other.logits)  # type: ignore[arg-type]
    texts: list[list[str]] = []
    read = Question.read
    monkeypatch.setattr(Question, "read", lambda self, more=(): texts.append([x.text for x in more]) or read(self, more))
    assert len([*one.check(found, answer, 8, again)]) == 2
    assert texts == [[again[1].text], [again[0].text]]  # what is left out is not read again either
    assert asking.merged(again, found) == again and asking.merged(again[1:], found) == again[::-1]
    plain = Question(told(st.Session(s.model, s.tokenizer), files[0]), "What?")
    plain.read()
    assert plain.passages() is None and asking.attended(plain.fork) is None
    with pytest.raises(InputError, match="does not say which passages"):
        plain.attended_by_question()


def test_a_session_without_a_passage(files: list[Path], tmp_path: Path) -> None:
    s = told(st.Session(flat(), st.ByteTokenizer()), *files)
    (found,) = passages(s, [(300, 420)])
    data = files[0].read_bytes()
    (tmp_path / "c.txt").write_bytes(data[:300] + data[420:])
    ours, want = without(s, found), told(st.Session(s.model, s.tokenizer), tmp_path / "c.txt", files[1])
    assert ours.position == want.position == s.position - 120
    torch.testing.assert_close(ours.logits, want.logits)
    assert quoted(dataclasses.replace(found, text="a  b\n" * 200)).count("[…]") == 1


def test_questions_need_documents(files: list[Path]) -> None:
    s = st.Session(flat(), st.ByteTokenizer())
    with pytest.raises(InputError, match="no document"):
        Question(s, "What?")
    with pytest.raises(InputError, match="question is empty"):
        Question(told(s, files[0]), " ")


def test_questions_choose_blocks_before_every_token(files: list[Path]) -> None:
    """Those of `ask` and those of a conversation alike; the session that has read the documents does not change."""
    keys: dict[str, Any] = dict(pattern="m", cache="blocks", router="subblock:2", top_k=2, position="rope")
    model, text = small_model(depth=1, **keys, cache_options={"route_every": 32}), "What is the price?"
    files[0].write_text(LINES[:700], "utf-8")
    one = Question(told(st.Session(model, st.ByteTokenizer()), files[0]), text)
    assert one.read() == len(f"\n\nUser: {text}\nAssistant:")
    assert one.fork.asking and not one.session.asking
    same, other = one.session.fork(), one.session.fork()
    same.asking = True
    for session in (same, other):
        session.append(f"\n\nUser: {text}\nAssistant:")
    assert same.logits is not None and torch.equal(same.logits, one.fork.logits)  # type: ignore[arg-type]
    assert not torch.equal(other.logits, same.logits)  # type: ignore[arg-type]
    chat = st.Chat(one.session.fork())
    chat.read(text)
    assert chat.session.asking and torch.equal(chat.session.logits, same.logits)  # type: ignore[arg-type]


def test_passages_that_touch_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    s = st.Session(flat(), st.ByteTokenizer())
    spans = [(32, 64, 9.0), (96, 128, 8.0), (0, 8, 7.0), (64, 96, 6.0), (128, 160, 5.0), (300, 308, 4.0), (400, 408, 3.0)]
    spans += [(500, 508, 2.5), (16, 32, 2.0), (600, 608, 1.0), (700, 708, 1.0)]
    monkeypatch.setattr(st.Session, "attended", lambda self: spans)
    assert asking.attended(s) == [(32, 160), (0, 8), (300, 308), (400, 408), (500, 508)]  # four blocks at most are one
    monkeypatch.setattr(st.Session, "attended", lambda self: [(10 * i, 10 * i + 5, 1.0) for i in range(9)])
    assert asking.attended(s) == [(0, 5), (10, 15), (20, 25), (30, 35), (40, 45)] == asking.decisive(s)
    blocks = [(64, 96, 6.0), (0, 32, 5.0), (200, 232, 4.5), (96, 128, 3.0), (300, 332, 2.9)]
    monkeypatch.setattr(st.Session, "attended", lambda self: blocks)
    assert asking.weighed(s) == [((64, 128), 6.0), ((0, 32), 5.0), ((200, 232), 4.5), ((300, 332), 2.9)]
    assert asking.decisive(s) == [(64, 128), (0, 32), (200, 232)]  # half of the largest weight, and more
    monkeypatch.setattr(st.Session, "attended", lambda self: [])
    assert asking.decisive(s) == []
