"""Text that needs memory: what is repeated, told and asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from siltstone.errors import InputError
from siltstone.eval.tasks import facts, stories, templates
from siltstone.eval.tasks.words import labels, names
from siltstone.train import recall_text
from siltstone.train.recall_text import Amounts, Writer, documents, write_documents

from .test_train_command import QUICK, here

BOOK = "".join(f"Sentence {i} tells of {word} and of nothing else in the world. " for i, word in enumerate("abcdefghij" * 200))


def written(size: int, **amounts: float) -> str:
    writer = Writer([BOOK], np.random.default_rng(0), Amounts(**amounts))  # type: ignore[arg-type]
    while len(writer.text) < size:
        writer.write()
    return writer.text


def test_equal_seeds_write_equal_texts_and_others_do_not() -> None:
    one, two, other = (list(documents([BOOK], 20_000, 10_000, seed)) for seed in (1, 1, 2))
    assert one == two and one != other and one[0] != one[1] and len(one) == 2


def test_facts_are_asked_later_in_the_words_in_which_they_were_told() -> None:
    text = written(60_000, repeats=0.0, facts=0.5, lists=0.0)
    asked = [c for c in recall_text.CARRIERS if len(re.findall(re.escape(c), text)) > 1]
    assert len(asked) > 10
    for carrier in asked:
        said = re.findall(re.escape(carrier) + r" ([^.;!]+[.;!])", text)
        assert max(said.count(one) for one in said) > 1, carrier


def test_passages_come_again_at_every_scale_of_distance() -> None:
    text = written(60_000, repeats=0.5, facts=0.0, lists=0.0)
    repeated = [m for i in range(0, 50_000, 97) if (m := text.find(text[i : i + 60], i + 1) - i) > 0]
    assert len(repeated) > 100 and min(repeated) < 1000 < 4000 < max(repeated)


def test_nothing_of_the_evaluation_is_written() -> None:
    text = written(200_000)
    words = set(re.findall(r"[A-Za-z-]+", text))
    assert not words & {*names("test"), *labels("test")}


def test_carriers_share_no_three_words_with_a_task() -> None:
    """With what any task tells or asks, in text and in questions."""

    def triples(text: str) -> set[tuple[str, ...]]:
        found = re.findall(r"[a-z'{}]+", text.lower())
        return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}

    said = [*templates.NEEDLES["test"].values(), *templates.TOLD["test"].values()]
    said += [x for _, wordings in facts.KINDS.values() for sentence, question in wordings for x in (sentence, question)]
    for make in (stories.one_fact, stories.two_facts, stories.three_facts, stories.two_arguments, stories.three_arguments):
        told, question, *_ = make(np.random.default_rng(0))
        said += [*told, question]
    tested = set().union(*map(triples, said))
    carried = {carrier: triples(carrier) & tested for carrier in recall_text.CARRIERS}
    assert len(tested) > 60 and not {carrier: found for carrier, found in carried.items() if found}


def test_the_files_have_their_share_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK, "utf-8")
    made = write_documents([tmp_path / "book.txt"], 0.5, tmp_path / "made", seed=0)
    size = sum(path.stat().st_size for path in made)
    assert size == pytest.approx(len(BOOK), rel=0.05)


@pytest.mark.parametrize("keys", [{"repeats": 0.8, "facts": 0.2}, {"repeats": -0.1}, {"near": 0}, {"near": 9, "far": 9}])
def test_impossible_amounts_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Amounts(**keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.95, float("nan")])
def test_impossible_shares_are_refused(tmp_path: Path, share: float) -> None:
    (tmp_path / "book.txt").write_text(BOOK, "utf-8")
    with pytest.raises(InputError, match="recall="):
        write_documents([tmp_path / "book.txt"], share, tmp_path / "made", seed=0)


def test_empty_books_are_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        Writer(["", " "], np.random.default_rng(0))


def test_a_run_with_made_text_is_resumed_with_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK[:20_000], "utf-8")
    words = [tmp_path / "book.txt", "--out", tmp_path / "run", *QUICK, "--length", "32"]
    assert here(*words, "--recall", "0.5", "--copying", "2", "--copies", "1", "--steps", "3") == 0
    record = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert record["steps"] == 3 and record["tokens"] == 3 * 32 and record["train_bytes"] > 35_000
    assert here(*words, "--resume", "--steps", "4") == 0
    assert here(*words, "--resume", "--steps", "5", "--recall", "0.5") != 0
