"""Every task against its definition, worked out here in another way."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.config import registry
from siltstone.errors import ConfigError, InputError
from siltstone.eval.intervals import bootstrap, interval, wilson
from siltstone.eval.run import evaluate, make
from siltstone.eval.tasks import anomalies, needles, stories, words
from siltstone.eval.tasks.base import UNSCORED, TextTask, TokenTask, random_numbers
from siltstone.eval.tasks.reader import Reader
from siltstone.text import ByteTokenizer
from siltstone.train.lab import run_lab, smoke
from siltstone.train.recipe import Recipe
from tests.eval.test_facts_and_meetings import meetings_file

TASKS = registry.members("tasks")
TOKENS = [name for name, cls in TASKS.items() if issubclass(cls, TokenTask)]
TEXTS = [name for name, cls in TASKS.items() if issubclass(cls, TextTask)]


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    model = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1, window=8, segment=64, router_dim=8)).eval()
    return Reader(model, ByteTokenizer())


def made(name: str, seed: int = 0, length: int = 64, rows: int = 4, **options: object) -> object:
    return make(name, options).batch(rows, length, random_numbers(name, "train", seed))  # type: ignore[attr-defined]


def test_there_is_every_task() -> None:
    assert {"mqar", "selective_copy", "induction", "parity", "s5", "token_needles"} == set(TOKENS)
    wanted = {f"niah_single_{i}" for i in (1, 2, 3)} | {f"niah_multikey_{i}" for i in (1, 2, 3)}
    wanted |= {"niah_multivalue", "niah_multiquery"} | {f"babilong_qa{i}" for i in range(1, 6)}
    assert wanted | {"told", "told_20", "recall_load", "repeats", "depth", "position", "anomalies", "facts", "meetings"} == set(
        TEXTS
    )
    with pytest.raises(ConfigError, match="did you mean 'mqar'"):
        make("mqra")


@pytest.mark.parametrize("name", TOKENS)
def test_streams_depend_on_the_seed_alone(name: str) -> None:
    np.random.seed(1), random.seed(1), torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # type: ignore[union-attr]
    one = made(name)
    assert (np.random.get_state()[1] == before[0]).all() and random.getstate() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    np.random.seed(2)
    two, other = made(name), made(name, seed=1)
    assert (one.ids == two.ids).all() and (one.targets == two.targets).all() and (one.ids != other.ids).any()
    task = make(name)
    assert 0 <= one.ids.min() and one.ids.max() < task.vocab_size and one.targets.max() < task.vocab_size
    assert (one.targets != UNSCORED).any(1).all()


@pytest.mark.parametrize("fillers", ["random", "zero"])
def test_mqar_answers_are_values_of_keys(fillers: str) -> None:
    for seed in range(20):
        found = made("mqar", seed, vocab_size=64, fillers=fillers, loads=(4, 8, 16))
        for ids, targets, load, reach in zip(found.ids, found.targets, found.load, found.distance, strict=True):
            pairs = dict(zip(ids[: 2 * load : 2].tolist(), ids[1 : 2 * load : 2].tolist(), strict=True))
            places = np.flatnonzero(targets != UNSCORED)
            assert len(pairs) == len(set(pairs.values())) == len(places) == load
            assert all(0 < key < 32 <= value for key, value in pairs.items()) and (places >= 2 * load).all()
            assert sorted(ids[places]) == sorted(pairs) and (places % 2 == 0).all()
            for at in places:
                assert targets[at] == pairs[ids[at]] == ids[at - reach[at]]
            if fillers == "zero":
                assert (np.delete(ids[2 * load :], places - 2 * load) == 0).all()


def test_mqar_needs_room() -> None:
    with pytest.raises(InputError, match="length=16 is too short for the task mqar"):
        made("mqar", length=16, loads=[16])
    with pytest.raises(ConfigError, match="no key 'pairs'"):
        make("mqar", {"pairs": 3})


@pytest.mark.parametrize("fillers", [0, 16])
def test_values_of_needles_stand_behind_their_keys(fillers: int) -> None:
    for seed in range(10):
        found = made("token_needles", seed, symbols=64, fillers=fillers, loads=(1, 8), asked=3)
        half = (64 - fillers) // 2
        for ids, targets, load, reach in zip(found.ids, found.targets, found.load, found.distance, strict=True):
            asked = np.flatnonzero(targets != UNSCORED)
            assert len(asked) == min(load, 3) and asked[-1] == 63 and (np.diff(asked) == 1).all()
            assert len(set(ids[asked].tolist())) == len(asked)
            for at in asked:
                place = at - reach[at]
                assert targets[at] == ids[place] and ids[place - 1] == ids[at] and 0 < ids[at] < half <= targets[at] < 2 * half
                assert place < asked[0]
            body = ids[: asked[0]]
            assert ((body >= half) & (body < 2 * half)).sum() == load
            assert ((body >= 64 - fillers) if fillers else (body == 0)).sum() == len(body) - 2 * load


def test_needles_need_room() -> None:
    with pytest.raises(InputError, match="length=16 is too short for the task token_needles"):
        made("token_needles", length=16, loads=[8])
    with pytest.raises(InputError, match="the load needs as many keys"):
        made("token_needles", loads=[8], symbols=10, fillers=0)


@pytest.mark.parametrize("name", TOKENS)
def test_every_token_task_trains_and_is_tried(name: str, tmp_path: Path) -> None:
    """The smoke recipe, on every task and through the command that tries run folders."""
    lab = replace(smoke(), task=name, options={}, recipe=Recipe(steps=2, batch=2), train=(64,), test=(64,), arms=("sparse",))
    (run,) = run_lab(replace(lab, items=2), tmp_path)["runs"]
    assert run["steps"] == 2 and 0 <= run["right"]["64"] <= 1 and {row["task"] for row in run["rows"]} == {name}
    model, tokenizer = st.load(tmp_path / "sparse" / "0")
    again = evaluate(model, tokenizer, [make(name)], [64], 1, 2)
    assert {row["score"] for row in again["rows"]} >= {"right"}


def test_the_other_token_tasks() -> None:
    copy = made("selective_copy")
    for ids, targets in zip(copy.ids, copy.targets, strict=True):
        assert (ids[-16:] == 1).all() and [x for x in ids[:-16] if x > 1] == targets[-16:].tolist()
    found = made("induction")
    for ids, targets in zip(found.ids, found.targets, strict=True):
        first = ids.tolist().index(0)
        assert ids[-1] == 0 and targets[-1] == ids[first + 1] and (ids == 0).sum() == 2
    bits = made("parity")
    assert all(bits.targets[r, t] == sum(bits.ids[r, : t + 1].tolist()) % 2 for r in range(4) for t in range(64))


def test_s5_composes_permutations() -> None:
    from itertools import permutations

    group, found = list(permutations(range(5))), made("s5")
    for ids, targets in zip(found.ids.tolist(), found.targets.tolist(), strict=True):
        things = list(range(5))
        for g, wanted in zip(ids, targets, strict=True):
            things = [group[g][x] for x in things]
            assert tuple(things) == group[wanted]


def test_training_and_test_share_no_words() -> None:
    for family in (words.names, words.labels):
        assert not {*family("train")} & {*family("test")} and len({*family("test")}) >= 100
    for table in (words.SUBJECTS, words.ACTIONS, words.ENDS):
        assert not {*table["train"]} & {*table["test"]}
    assert random_numbers("told", "train", 0).integers(1 << 60) != random_numbers("told", "test", 0).integers(1 << 60)


@pytest.mark.parametrize("name", [x for x in TEXTS if x.startswith("niah")])
def test_needles_are_there(name: str, reader: Reader) -> None:
    task = make(name)
    for item in range(5):
        document, question, wanted, depth = task.item(reader, 1500, item, random_numbers(name, "test", item))  # type: ignore
        assert all(document.count(value) == 1 for value in wanted)
        assert len(wanted) == {"niah_multivalue": 4, "niah_multiquery": 4}.get(name, 1)
        assert 1500 - 200 <= reader.count(document + question) <= 1500 + 60
        if depth >= 0:
            assert abs(document.index(wanted[0]) / len(document) - depth / 100) < 0.12
    assert needles.matched("It is AB and 7.", ["ab", "9"]) == 0.5


@pytest.mark.parametrize(
    ("name", "form"),
    [("niah_multikey_2", r"[a-z]+-[a-z]+-\d{1,4}"), ("niah_multikey_3", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")],
)
def test_the_asked_needle_has_the_form_of_the_others(name: str, form: str, reader: Reader) -> None:
    document, question, _, _ = make(name).item(reader, 1500, 0, random_numbers(name, "test", 3))  # type: ignore
    keys = re.findall(r"secret code of (\S+) is", document)
    assert len(keys) > 8 and len({*keys}) == len(keys) and all(re.fullmatch(form, key) for key in keys)
    assert sum(key in question for key in keys) == 1


def test_stories_follow_from_their_facts() -> None:
    """Answers read from the facts alone."""
    for seed in range(60):
        facts, question, answer, _ = stories.one_fact(random_numbers("s", "test", seed))
        who = question.split()[2].strip("?")
        assert [f for f in facts if f.startswith(who + " ")][-1] == f"{who} went to the {answer}."
        for make_story in (stories.two_facts, stories.three_facts):
            facts, question, answer, _ = make_story(random_numbers("s", "test", seed))
            thing = next(x for x in stories.OBJECTS if x in question)
            at, path, holder = {}, [], None
            for fact in facts:
                who, did, _, what = fact.removesuffix(" there.").rstrip(".").replace(" to the ", " the ").split()
                if did == "went":
                    at[who] = what
                    path += [what] if holder == who else []
                elif what == thing:
                    path += [at[who]] if did == "took" else []
                    holder = who if did == "took" else None
            assert answer == (path[-1] if make_story is stories.two_facts else path[-2])
        facts, question, answer, _ = stories.two_arguments(random_numbers("s", "test", seed))
        side, place = question.split()[2], question.split("of the ")[1].split("?")[0]
        other = stories.SIDES[side]
        assert f"The {answer} lies {side} of the {place}." in facts or f"The {place} lies {other} of the {answer}." in facts
        facts, question, answer, known = stories.three_arguments(random_numbers("s", "test", seed))
        assert answer in known and any(answer in fact and "gave" in fact for fact in facts)


def test_surprise_of_logs() -> None:
    by = random_numbers("a", "test", 0)
    lines, strange = anomalies.log_lines(150, 0.1, 50, by)
    assert not strange[:50].any() and strange.any()
    assert all(("INFO" in x or "DEBUG" in x) != odd for x, odd in zip(lines, strange, strict=True))
    raw = [x.encode() for x in lines]
    assert anomalies.auroc(anomalies.ngram_bits(raw, 4)[50:], strange[50:]) > 0.8
    assert anomalies.auroc(anomalies.xz_bits(raw)[50:], strange[50:]) > 0.6  # whole bytes of a line: a coarse measure
    assert anomalies.auroc(np.array([1.0, 1, 2]), np.array([False, True, False])) == 0.25


def test_intervals() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    low, high = bootstrap([0.0, 0.5, 1.0] * 20)
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65 and interval([0.0, 1.0])[0] == "wilson" and interval([0.2])[0] == "bootstrap"


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_task_runs(name: str, reader: Reader, tmp_path: Path) -> None:
    options = {"file": str(meetings_file(tmp_path))} if name == "meetings" else {}
    found = evaluate(reader.model, reader.tokenizer, [make(name, options)], [900], seeds=1, items=1)
    assert found["rows"] and all(row["task"] == name and np.isfinite(row["mean"]) for row in found["rows"])


def test_told_ranks_the_told_name_first(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model that prefers what it has read; without the fact it is at chance."""
    monkeypatch.setattr(Reader, "read", lambda self, text: text)
    monkeypatch.setattr(Reader, "ranks", lambda self, text, ask, every: np.array([float(x in " " + text) for x in every]))
    rows = {
        row["score"]: row["mean"]
        for row in evaluate(reader.model, reader.tokenizer, [make("told")], [100], seeds=2, items=5)["rows"]
    }
    assert rows["ranked first"] == rows["first, told"] == 1.0 and rows["first, not told"] < 0.5


@pytest.mark.parametrize("name", ["niah_single_1", "babilong_qa2"])
def test_a_text_without_room_is_refused(name: str, reader: Reader) -> None:
    with pytest.raises(InputError, match=f"length=0 is too short for the task {name}"):
        evaluate(reader.model, reader.tokenizer, [make(name)], [0], seeds=1, items=1)


def test_repeats_differ_in_the_passage_alone(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both readings follow the same text, so that acquaintance with its style saves nothing."""
    texts: list[tuple[str, str]] = []
    monkeypatch.setattr(Reader, "read", lambda self, text: text)
    monkeypatch.setattr(Reader, "nats", lambda self, text, passage: texts.append((text, passage)) or np.ones(9))
    evaluate(reader.model, reader.tokenizer, [make("repeats")], [200], seeds=1, items=1)
    (first, passage), (second, again) = texts
    assert passage == again and passage not in first and second == "\n" + passage + first.removeprefix("\n")


def test_the_same_passage_is_read_deep_and_shallow(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both readings end with the same text before the passage, and the difference is that of each passage."""
    texts: list[tuple[str, str]] = []
    monkeypatch.setattr(Reader, "read", lambda self, text: text)
    monkeypatch.setattr(
        Reader, "nats", lambda self, text, passage: texts.append((text, passage)) or np.full(4, len(text) * math.log(2) / 4)
    )
    task = make("depth", {"passage": 150, "shallow": 300})
    rows = {
        row["score"]: row["mean"] for row in evaluate(reader.model, reader.tokenizer, [task], [2000], seeds=1, items=1)["rows"]
    }
    (deep, passage), (shallow, again) = texts
    assert passage == again and deep.endswith(shallow) and passage not in deep
    assert 1800 < len(deep) and 200 < len(shallow) <= 300 and 50 < len(passage) <= 150
    assert rows["deep minus shallow"] == pytest.approx((len(deep) - len(shallow)) / len(passage))
    assert rows["bits per byte, deep"] == pytest.approx(len(deep) / len(passage))
    short = evaluate(reader.model, reader.tokenizer, [task], [400], seeds=1, items=1)
    assert short["rows"][0]["at"]["shallow"] == 200


def test_every_load_is_tried() -> None:
    torch.manual_seed(0)
    model = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1, window=8, segment=64, router_dim=8)).eval()
    task = make("mqar", {"vocab_size": 64, "loads": (2, 4, 8)})
    rows = evaluate(model, ByteTokenizer(), [task], [64], seeds=2, items=3)["rows"]
    found = {row["at"]["load"]: row["count"] for row in rows if row["score"] == "right"}
    assert found == {2: 6, 4: 6, 8: 6}
    scores = {row["score"] for row in rows}
    assert {"right by distance", "right by depth", "nats by position"} <= scores
    assert all(row["at"]["depth"] in (0, 25, 50, 75, 100) for row in rows if row["score"] == "right by depth")
    assert make("s5").by_load()[0].name == "s5"  # type: ignore[attr-defined]


def test_templates_of_training_and_test_share_no_three_words() -> None:
    from siltstone.eval.tasks import templates

    def triples(text: str) -> set[tuple[str, ...]]:
        found = text.lower().replace(".", " ").replace(",", " ").replace("?", " ").split()
        return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}

    for family in (templates.NEEDLES, templates.TOLD):
        train, test = (set().union(*(triples(x) for x in family[split].values())) for split in ("train", "test"))
        assert train and test and not train & test
        assert family["train"].keys() == family["test"].keys()
    for lines in (templates.USUAL, templates.STRANGE):
        train, test = ({word for x in lines[split] for word in triples(x)} for split in ("train", "test"))
        assert train and test and not train & test
    by = np.random.default_rng(0)
    train, test = ("".join(anomalies.log_lines(50, 0.2, 5, by, split)[0]) for split in ("train", "test"))
    assert "notice" in train and "INFO" not in train and "INFO" in test and "notice" not in test
