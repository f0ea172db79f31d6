"""`siltstone ask`: documents are read once, questions are forks, and what was read is kept."""

from __future__ import annotations

import importlib
import io
import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.inference import asking, documents
from tests.cli.commands import good, refused, siltstone
from tests.cli.conftest import send
from tests.cli.test_signals import SIGNALS

SHORT = ["--max-new-tokens", 6]


@pytest.fixture(scope="session")
def doc(file: Path) -> Path:
    path = file.parent / "doc.txt"
    path.write_text("It was a bright cold day.\n" * 40, "utf-8")
    return path


@pytest.fixture
def attends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions say what they attended to."""
    monkeypatch.setattr(st.Session, "attended", lambda self: [(26, 52, 3.0), (200, 208, 2.0), (5, 9, 1.0)])


def rows(*words: Any) -> list[dict[str, Any]]:
    return [json.loads(row) for row in good("ask", *words, "--json", *SHORT).stdout.splitlines()]


def test_documents_are_read_once_and_questions_are_forks(run: Path, doc: Path, file: Path, tmp_path: Path) -> None:
    out, b, size = tmp_path / "a.silt", file.parent / "b.txt", doc.stat().st_size
    *answers, receipt = rows(run, "--doc", doc, "--session", out, "What?", "Why so?", "What?")
    assert [x["question"] for x in answers] == ["What?", "Why so?", "What?"] and answers[0] == answers[2]
    assert answers[0]["tokens_read"] == len("\n\nUser: What?\nAssistant:") and answers[0]["passages"] is None
    assert receipt["tokens_read"] == size + sum(x["tokens_read"] for x in answers) and receipt["position"] == size
    kept = out.read_bytes()
    one, again = rows(run, "--doc", doc, "--session", out, "Why so?")
    assert one == answers[1] and again["recomputed"] == 0 and again["restored"] == size and out.read_bytes() == kept
    assert again["tokens_read"] == one["tokens_read"] and again["documents"] == receipt["documents"]
    assert rows(run, "--session", out, "Why so?")[0] == one  # without --doc
    two = rows(run, "--doc", doc, "--doc", b, "--session", out)[-1]
    assert two["tokens_read"] == 2 + b.stat().st_size and [x["path"] for x in two["documents"]] == [str(doc), str(b)]
    told = good("ask", run, "--session", out, "What?", *SHORT)
    assert told.stdout.startswith("? What?\n") and "2 documents" in told.stderr and "0 recomputed" in told.stderr
    talk = good("chat", run, "--session", out, "--json", *SHORT, data=b"And what?\n").stdout.splitlines()
    assert json.loads(talk[0])["tokens_read"] == len("\n\nUser: And what?\nAssistant:")


def test_an_answer_is_given_its_first_words(run: Path, doc: Path) -> None:
    """They are read behind the template, and are part of the answer."""
    one, two, _ = rows(run, "--doc", doc, "What?", "Why?", "--begin", "It is", "--begin", "")
    plain, other, _ = rows(run, "--doc", doc, "What?", "Why?")
    assert one["answer"].startswith("It is") and two == other and one["answer"] != plain["answer"]
    assert one["tokens_read"] == plain["tokens_read"] + len(" It is")
    refused("--begin is given 1 times, and there are 2 questions", "ask", run, "--doc", doc, "What?", "Why?", "--begin", "It")


def test_forks_of_answered_questions_are_let_go(run: Path, doc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork may be as large as the session: one is held at a time."""
    live, most = weakref.WeakSet[Any](), []

    class Counted(asking.Question):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            live.add(self)
            most.append(len(live))

    monkeypatch.setattr(asking, "Question", Counted)
    rows(run, "--doc", doc, *(f"Number {i}?" for i in range(4)))
    assert most == [1, 1, 1, 1]


def test_an_answer_ends_with_its_passages(run: Path, doc: Path, attends: None) -> None:
    text = good("ask", run, "--doc", doc, "What?", *SHORT).stdout
    assert f"[1] {doc}, line 2, bytes 26-52: It was a bright cold day.\n[2] {doc}, line 8, bytes 200-208: " in text
    answer, _ = rows(run, "--doc", doc, "What?", "--check", "--reread")
    assert [x["bytes"] for x in answer["passages"]] == [[26, 52], [200, 208], [5, 9]]
    assert [x["bytes"] for x in answer["reread"]] == [[26, 52], [200, 208]]  # those with half of the weight of the first
    assert answer["passages"][0]["lines"] == [2, 2] and answer["passages"][0]["document"] == 0
    assert [x["changes"] for x in answer["without"]] == [x["answer"] != answer["answer"] for x in answer["without"]]
    checked = good("ask", run, "--doc", doc, "What?", "--check", *SHORT).stdout
    said = [x["answer"] if x["changes"] else "the same answer" for x in answer["without"]]
    assert [line.partition("without it: ")[2] for line in checked.splitlines() if "without it" in line] == [
        line.splitlines()[0] if line else "" for line in said
    ]
    plain, _ = rows(run, "--doc", doc, "What?", "--no-reread")
    assert answer["tokens_read"] > plain["tokens_read"] + 26 and "reread" not in plain
    bare, receipt = rows(run, "--doc", doc, "What?")
    assert bare | {"without": answer["without"]} == answer
    more = rows(run, "--doc", doc, "What?", "--check")[-1]
    assert more["tokens_read"] - receipt["tokens_read"] == sum(x["tokens"] for x in answer["without"]) > 3 * 1000


def test_a_reply_behind_documents_ends_with_its_passages(run: Path, tmp_path: Path, attends: None) -> None:
    doc, out, said = tmp_path / "doc.txt", tmp_path / "a.silt", b"What?\nAnd why?\n"
    doc.write_text("It was a bright cold day.\n" * 40, "utf-8")
    good("ask", run, "--doc", doc, "--session", out)
    kept = out.read_bytes()
    text = good("chat", run, "--session", out, *SHORT, data=said).stdout
    assert text.count(f"\n[1] {doc}, line 2, bytes 26-52: It was a bright cold day.\n[2] {doc}, line 8, bytes 200-208: ") == 2
    out.write_bytes(kept)
    *turns, _ = map(json.loads, good("chat", run, "--session", out, "--json", *SHORT, data=said).stdout.splitlines())
    assert [[x["bytes"] for x in turn["passages"]] for turn in turns] == [[[26, 52], [200, 208], [5, 9]]] * 2
    assert "passages" not in good("chat", run, "--json", *SHORT, data=said).stdout  # without documents
    out.write_bytes(kept)
    doc.write_text("It was a bright warm day.\n" * 40, "utf-8")
    told = good("chat", run, "--session", out, "--json", *SHORT, data=said)
    assert told.stdout.count('"passages": null') == 2 and "changed after it was read" in told.stderr


def test_a_document_that_goes_away_in_a_conversation_ends_no_turn(
    run: Path, tmp_path: Path, attends: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc, out = tmp_path / "doc.txt", tmp_path / "a.silt"
    doc.write_text("It was a bright cold day.\n" * 40, "utf-8")
    good("ask", run, "--doc", doc, "--session", out)
    changes(monkeypatch, lambda: doc.write_text("It was a bright warm day.\n" * 40, "utf-8"))  # of the same size
    told = good("chat", run, "--session", out, "--json", *SHORT, data=b"What?\nAnd why?\n")
    assert json.loads(told.stdout.splitlines()[-1])["turns"] == 2 and told.stderr.count("warning: no passages: ") == 2
    assert told.stdout.count('"passages": null') == 2


@pytest.mark.parametrize("more", [[], ["--check"], ["--no-reread"]], ids=" ".join)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_document_that_goes_away_loses_no_answer(
    more: list[str], after: int, run: Path, tmp_path: Path, attends: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever that is: the questions are answered, with a warning instead of passages or checks."""
    doc, out = tmp_path / "doc.txt", tmp_path / "a.silt"
    doc.write_text("It was a bright cold day.\n" * 40, "utf-8")
    good("ask", run, "--doc", doc, "--session", out)
    changes(monkeypatch, doc.unlink, after)
    told = good("ask", run, "--session", out, "What?", "And why?", "--json", *more, *SHORT)
    one, two, _ = map(json.loads, told.stdout.splitlines())
    assert one["answer"] and two["answer"] and "warning: no passages: " in told.stderr
    assert two["passages"] is None or after > 1


def changes(monkeypatch: pytest.MonkeyPatch, change: Callable[[], Any], after: int = 0) -> None:
    """Makes this change after the question whether documents have changed was asked 1 + `after` times."""
    asked, left = documents.changed, [1 + after]

    def changed(one: documents.Document) -> bool:
        found = asked(one)
        left[0] -= 1
        if left[0] == 0:
            change()
        return found

    monkeypatch.setattr(documents, "changed", changed)


def test_a_conversation_behind_documents(run: Path, tmp_path: Path, attends: None) -> None:
    """It takes further documents and questions, and no --check, which would leave the conversation out."""
    docs, out = [tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "a.silt"
    for doc in docs:
        doc.write_text("It was a bright cold day.\n" * 40, "utf-8")
    good("ask", run, "--doc", docs[0], "--session", out)
    good("chat", run, "--session", out, *SHORT, data=b"What?\n")
    refused("this session is in a conversation", "ask", run, "--session", out, "Why?", "--check")
    (answer, receipt) = rows(run, "--doc", docs[0], "--doc", docs[1], "--session", out, "Why?")
    assert len(receipt["documents"]) == 2 and len(answer["reread"]) == 2
    talk = good("chat", run, "--session", out, "--json", *SHORT, data=b"And what?\n").stdout.splitlines()
    assert json.loads(talk[0])["tokens_read"] == len("\n\nUser: And what?\nAssistant:") and json.loads(talk[0])["turn"] == 2


def test_a_conversation_on_a_part_of_a_document_says_so(run: Path, file: Path, tmp_path: Path, before: Any) -> None:
    out = tmp_path / "a.silt"
    before("siltstone.inference.session:Session._call", 3, send(SIGNALS[0]))
    assert siltstone("ask", run, "--doc", file, "--session", out).exit_code > 128
    told = good("chat", run, "--session", out, *SHORT, data=b"What?\n")
    assert f"{file} was read in part; `siltstone ask` reads the rest, but not behind a conversation" in told.stderr


def test_a_document_that_changed(run: Path, tmp_path: Path, attends: None) -> None:
    doc, out = tmp_path / "doc.txt", tmp_path / "a.silt"
    doc.write_text("one two three. " * 20, "utf-8")
    good("ask", run, "--doc", doc, "--session", out)
    doc.write_text("One two three. " * 20, "utf-8")
    refused("doc.txt has changed since the session read it", "ask", run, "--doc", doc, "--session", out, "What?")
    result = good("ask", run, "--session", out, "What?", "--json", *SHORT)
    assert "doc.txt changed after it was read" in result.stderr and json.loads(result.stdout.splitlines()[0])["passages"] is None
    refused_too = siltstone("ask", run, "--session", out, "What?", "--check", *SHORT)
    assert refused_too.exit_code == 2 and "--check and --reread need the documents" in refused_too.stderr


def test_a_part_of_a_document_that_changed_is_not_kept(
    run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the session was saved while the document was read."""
    from siltstone.cli import sessions

    out, held = tmp_path / "a.silt", []
    monkeypatch.setattr(sessions, "SECONDS", -1.0)
    monkeypatch.setattr(sessions.Saves, "if_due", lambda self: (self.now(), held.append(out.stat().st_size)))
    monkeypatch.setattr(documents, "changed", lambda document: True)
    refused("changed while it was read", "ask", run, "--doc", file, "--session", out, "What?")
    kept = st.Session.load(out, *st.load(run))
    assert len(held) > 1 and documents.documents(kept) == [] and kept.position == 0


@pytest.mark.parametrize("how", ["gone", "changed", "broken"])
def test_a_document_that_changes_while_others_are_read(
    how: str, run: Path, doc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documents before it are saved, and nothing of it."""
    out, other, read = tmp_path / "a.silt", tmp_path / "b.txt", documents.read
    other.write_text("one two three. " * 200, "utf-8")

    def reading(session: st.Session, document: documents.Document) -> Any:
        if document.path == str(other):
            {
                "gone": other.unlink,
                "changed": lambda: other.write_text("o" * 3000),
                "broken": lambda: other.write_bytes(b"\xff" * 3000),
            }[how]()
        return read(session, document)

    monkeypatch.setattr(documents, "read", reading)
    refused("b.txt", "ask", run, "--doc", doc, "--doc", other, "--session", out, "What?")
    kept = st.Session.load(out, *st.load(run))
    assert [x.path for x in documents.documents(kept)] == [str(doc)] and kept.position == doc.stat().st_size
    monkeypatch.setattr(documents, "read", read)
    assert rows(run, "--session", out, "What?")[0] == rows(run, "--doc", doc, "What?")[0]


def test_long_readings_are_saved_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 30 seconds, and for at most a tenth of the time."""
    from siltstone.cli import sessions

    now, took, made = [0.0], [1.0], []

    def save() -> None:
        made.append(now[0])
        now[0] += took[0]

    monkeypatch.setattr(sessions.time, "monotonic", lambda: now[0])
    saves = sessions.Saves(save)
    for _ in range(300):
        now[0] += 1
        took[0] = 12.0 if now[0] > 60 else 1.0
        saves.if_due()
    assert made == [30.0, 61.0, 193.0, 325.0]
    sessions.Saves(None).now()


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_reading_continues(number: int, run: Path, file: Path, tmp_path: Path, before: Any) -> None:
    out, size = tmp_path / "a.silt", file.stat().st_size
    before("siltstone.inference.session:Session._call", 3, send(number))
    result = siltstone("ask", run, "--doc", file, "--session", out, "What?")
    assert result.exit_code == 128 + number and "saved in" in result.stderr and result.stderr.count("\n") == 1, result.output
    s = st.Session.load(out, *st.load(run))
    (known,) = documents.documents(s)
    assert 0 < known.read == s.position < size
    answer, receipt = rows(run, "--doc", file, "--session", out, "What?")
    assert receipt["tokens_read"] == size - known.read + answer["tokens_read"] and receipt["recomputed"] == 0
    assert answer == rows(run, "--doc", file, "What?")[0]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_an_answer_is_written(number: int, run: Path, doc: Path, tmp_path: Path, before: Any) -> None:
    before("siltstone.inference.session:sample", 3, send(number))
    result = siltstone("ask", run, "--doc", doc, "--session", tmp_path / "a.silt", "What?")
    assert result.exit_code == 128 + number and "a.silt has what was read" in result.stderr, result.output
    assert rows(run, "--session", tmp_path / "a.silt", "What?")[1]["restored"] == doc.stat().st_size


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"\x7fELF\0\1"), "is binary, not text"),
        (lambda path: path.write_bytes(b"caf\xe9"), "is not valid UTF-8 at byte 3"),
        (lambda path: path.mkdir(), "cannot be read"),
    ],
)
def test_documents_that_cannot_be_read(make: Callable[[Path], Any], words: str, run: Path, doc: Path, tmp_path: Path) -> None:
    make(tmp_path / "x.txt")
    refused(words, "ask", run, "--doc", doc, "--doc", tmp_path / "x.txt", "--session", tmp_path / "a.silt", "What?")
    assert not (tmp_path / "a.silt").exists()


def test_questions_that_cannot_be_asked(run: Path, doc: Path, tmp_path: Path) -> None:
    refused("no document is given", "ask", run, "What?")
    refused("does not exist, and no document", "ask", run, "--session", tmp_path / "a.silt", "What?")
    refused("no question is given", "ask", run, "--doc", doc)
    good("generate", run, "Hello", "--session", tmp_path / "b.silt", *SHORT)
    refused("read no document", "ask", run, "--session", tmp_path / "b.silt", "What?")
    refused("question is empty", "ask", run, "--doc", doc, " ")
    for option in ("--check", "--reread"):
        result = siltstone("ask", run, "--doc", doc, "What?", option, *SHORT)
        assert result.exit_code == 2 and "does not say which passages" in result.stderr
    kept = ["--doc", doc, "--session", tmp_path / "c.silt", "What?"]
    for more in ([" "], ["--check"], ["--reread"]):  # before documents are read, which may take long
        assert siltstone("ask", run, *kept, *more, *SHORT).exit_code == 2 and not (tmp_path / "c.silt").exists()


def test_a_bar_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = importlib.import_module("siltstone.cli.ask")._bar
    for terminal in (True, False):
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stderr", out)
        with bar(1000) as advance:
            advance(600)
        assert ("reading" in out.getvalue()) == terminal
