"""The tasks `facts` and `meetings`, with models whose answers are known."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import DataError, InputError
from siltstone.eval.run import evaluate, make
from siltstone.eval.tasks import facts, meetings
from siltstone.eval.tasks.base import random_numbers
from siltstone.eval.tasks.reader import Reader
from siltstone.inference.session import Session
from siltstone.text import ByteTokenizer
from tests.cli.commands import good, siltstone

WORDS = "budget remote colour battery rubber button speech menu price design".split()


def meetings_file(folder: Path) -> Path:
    """Two meetings; turn n speaks of word n."""
    turns = [
        {"speaker": "AB"[i % 2], "content": f"Now we talk about the {word} . " + "Yes . " * 4} for i, word in enumerate(WORDS)
    ]
    asked = [
        {"query": f"What was said about the {WORDS[i]}?", "answer": "", "relevant_text_span": [[str(i), str(i)]]} for i in (2, 7)
    ]
    lines = [json.dumps({"meeting_transcripts": turns, "specific_query_list": asked})] * 2
    (folder / "meetings.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder / "meetings.jsonl"


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader(st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1, window=8, pattern="w")).eval(), ByteTokenizer())


def scores(found: dict[str, Any]) -> dict[str, float]:
    return {row["score"]: row["mean"] for row in found["rows"]}


def test_facts_are_in_the_text_and_not_in_the_control(reader: Reader) -> None:
    task = make("facts")
    assert isinstance(task, facts.Facts)
    for item in range(4):
        told, control, made = task.item(reader, 2000, random_numbers("facts", "test", item))
        assert len({fact.question for fact in made}) == 8 and 1400 < len(told) <= 2000
        rest = told
        for fact in made:
            assert told.count(fact.sentence) == 1 and fact.sentence not in control
            assert fact.sentence == f"{fact.question.partition('Answer: ')[2]} {fact.answer}."
            rest = rest.replace(fact.sentence + " ", "")
        assert rest == control
    with pytest.raises(InputError, match="length=50 is too short for the task facts"):
        task.item(reader, 50, random_numbers("facts", "test", 0))


def test_facts_have_three_wordings_of_each_of_eight_kinds() -> None:
    """All of them are drawn, each fills the sentence with what the question names; with one wording the first is taken."""
    assert len(facts.KINDS) == 8 and facts.WORDINGS == 3
    ways = [one for _, wordings in facts.KINDS.values() for one in wordings]
    assert all(re.findall("{.*?}", said) == re.findall("{.*?}", asked) != [] for said, asked in ways)
    assert len({said for said, _ in ways}) == len({asked for _, asked in ways}) == 24

    def written(wordings: int) -> str:
        return " ".join(x.question for seed in range(20) for x in facts.facts(8, np.random.default_rng(seed), wordings))

    some, one = written(3), written(1)
    for _, wordings in facts.KINDS.values():
        parts = [said.split("}")[-1] if said.startswith("{") else said.split("{")[0] for said, _ in wordings]
        assert all(part in some for part in parts) and [part in one for part in parts] == [True, False, False]
    with pytest.raises(InputError, match="wordings=4 must be from 1 to 3"):
        facts.facts(8, np.random.default_rng(0), 4)


def test_a_model_that_looks_the_facts_up_is_right_and_only_with_them(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds what followed the end of the question in the text it has read."""

    class Looking:
        def __init__(self, text: str) -> None:
            self.text = text

        def fork(self) -> Looking:
            return Looking(self.text)

        def append(self, question: str) -> None:
            said = question.partition("Answer: ")[2]
            self.answer = self.text.partition(said)[2].partition(".")[0] or " nothing"

        @property
        def logits(self) -> torch.Tensor:
            return torch.eye(259)[ord(self.answer[0]) if self.answer != " nothing" else 0]

        def score(self, ids: list[int]) -> torch.Tensor:
            return torch.full((len(ids),), 0.0 if bytes(ids).decode() == self.answer else -2.0)

        def generate(self, tokens: int, temperature: float) -> list[str]:
            return [self.answer]

    monkeypatch.setattr(Reader, "read", lambda self, text: Looking(text))
    found = scores(evaluate(reader.model, reader.tokenizer, [make("facts")], [2000], seeds=1, items=5))
    assert found["first token"] == found["said"] == 1.0 and found["log-probability"] == 0.0
    assert found["first token, facts removed"] == found["said, facts removed"] == 0.0
    assert found["log-probability, facts removed"] < -6


def test_scores_are_those_of_the_model(reader: Reader) -> None:
    """The log-probability of an answer is that of its tokens after the text and the question in one call."""
    task = make("facts")
    assert isinstance(task, facts.Facts)
    told, control, made = task.item(reader, 1500, random_numbers("facts", "test", 5))
    for text in (told, control):
        first, log, said = np.mean([task._scores(reader, reader.read(text), fact) for fact in made[:2]], 0)
        want = []
        for fact in made[:2]:
            ids = torch.tensor([list((text + fact.question + f" {fact.answer}").encode())])
            with torch.no_grad():
                logs = reader.model(ids)[0][0].log_softmax(-1)
            n = len(fact.answer) + 1
            want.append(float(logs[-n - 1 : -1].gather(1, ids[0, -n:, None]).sum()))
        assert log == pytest.approx(np.mean(want), rel=1e-4)


def test_recall_counts_tokens() -> None:
    assert meetings.recall([(0, 5), (8, 12)], [(10, 20)]) == (1.0, 0.2)
    assert meetings.recall([(0, 10), (20, 30)], [(10, 20)]) == (0.0, 0.0)
    assert meetings.recall([(0, 99)], [(3, 4), (50, 60)]) == (1.0, 1.0)


@pytest.mark.parametrize("length", [5000, 400, 120])
def test_the_evidence_is_in_the_text(length: int, reader: Reader, tmp_path: Path) -> None:
    task = make("meetings", {"file": str(meetings_file(tmp_path))})
    assert isinstance(task, meetings.Meetings)
    begins = set()
    for item in range(12):
        ids, question, ((first, end),) = task.item(reader, length, random_numbers("meetings", "test", item))
        assert len(ids) <= length and 0 <= first < end <= len(ids)
        word = question.split()[-1].rstrip("?")
        assert f"about the {word} ." in bytes(ids[first:end]).decode() and bytes(ids[end - 1 : end]) == b"\n"
        assert bytes(ids[:1]) in (b"A", b"B")
        begins.add(first)
    assert len(begins) > 1
    with pytest.raises(InputError, match="length=20 is too short"):
        task.item(reader, 20, random_numbers("meetings", "test", 0))


def test_meetings_with_and_without_a_model_that_says(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make("meetings", {"file": str(meetings_file(tmp_path)), "passage": 60})
    found = scores(evaluate(reader.model, reader.tokenizer, [task], [5000], seeds=1, items=4))
    assert found.keys() == {"found, BM25", "covered, BM25"} and found["found, BM25"] == 1.0
    monkeypatch.setattr(meetings, "attends", lambda model: True)
    monkeypatch.setattr(Session, "attended", lambda self: [(0, self.position, 1.0)])
    found = scores(evaluate(reader.model, reader.tokenizer, [task], [5000], seeds=1, items=2))
    assert found["found"] == found["covered"] == found["covered, BM25"] == 1.0  # of the same length
    monkeypatch.setattr(Session, "attended", lambda self: [(0, 1, 1.0), (0, 1, 1.0)])
    assert scores(evaluate(reader.model, reader.tokenizer, [task], [5000], seeds=1, items=2))["found"] == 0.0
    monkeypatch.setattr(Session, "attended", lambda self: None)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(InputError, match="siltstone\\[eval\\]"):
        evaluate(reader.model, reader.tokenizer, [task], [5000], seeds=1, items=1)
    assert meetings.bm25(["", ""], "?") is None
    monkeypatch.undo()
    assert meetings.bm25(["", "."], "price") == meetings.bm25(["a price"], "?") == [] and meetings.bm25(
        ["no", "price"], "price"
    ) == [1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1: this is no meeting"),
        ("[]", "must be an object"),
        ("{}", "it has no 'meeting_transcripts'"),
        ('{"meeting_transcripts": [], "specific_query_list": []}', "has no question with evidence"),
        (
            '{"meeting_transcripts": [], "specific_query_list": [{"query": "a", "relevant_text_span": [["0", "4"]]}]}',
            "outside of its 0",
        ),
        ('{"meeting_transcripts": 5, "specific_query_list": []}', "line 1: this is no meeting"),
    ],
)
def test_files_that_are_no_meetings(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text, "utf-8")
    with pytest.raises(DataError, match=re.escape(words)):
        meetings.queries(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="--meetings FILE"):
        make("meetings").item(None, 5, np.random.default_rng(0))  # type: ignore[attr-defined]


def test_the_command(reader: Reader, tmp_path: Path) -> None:
    model = reader.model
    assert isinstance(model, st.LM)
    run, file = st.save(model, ByteTokenizer(), tmp_path / "run"), meetings_file(tmp_path)
    few = ["--lengths", 900, "--seeds", 1, "--items", 1]
    found = json.loads(good("eval", run, "--tasks", "facts,meetings", "--meetings", file, *few, "--json").stdout)
    assert [task["name"] for task in found["tasks"]] == ["facts", "meetings"] and len(found["rows"]) == 8
    assert f"--meetings {file}" in found["command"]
    lost = siltstone("eval", run, "--tasks", "meetings", *few)
    assert lost.exit_code == 2 and "--meetings FILE" in lost.stderr
    lines = good("eval", run, "--tasks", "list").stdout.splitlines()
    assert sum(line.startswith(("facts: text task. Facts", "meetings: text task. Questions")) for line in lines) == 2


def test_a_model_of_ones_own_beside_passages_that_are_read_again() -> None:
    """The model that ships says what it attends to; other forms of a decoder need a decoder."""
    words = ["eval", "lookup", "--tasks", "facts", "--lengths", "1024", "--seeds", "1", "--items", "1", "--beside"]
    found = json.loads(good(*words, "reread,bm25", "--json").stdout)
    right = {row["at"].get("arm", "own"): row["mean"] for row in found["rows"] if row["score"] == "said"}
    assert right.keys() == {"own", "reread", "bm25"} and right["reread"] >= 0.5
    assert found["costs"]["parameters"] == 2_385_670 and found["costs"]["length"] == 1024
    assert "was not imported from a decoder" in siltstone(*words, "reread,full").stderr
    model = st.load(st.lookup_run())[0]
    with pytest.raises(InputError, match="the arm full is another form of a decoder"):
        evaluate(model, st.load(st.lookup_run())[1], [make("facts")], [1024], 1, 1, arms=["full"])
