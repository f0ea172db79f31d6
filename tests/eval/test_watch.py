"""Routing that is followed or replaced: hits are those of single tokens, oracle routing always hits, watching changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import CheckpointError, ConfigError
from siltstone.eval.arms import arms, build, configured
from siltstone.eval.run import TRAINED, evaluate, make, observe_tokens, trained_on
from siltstone.eval.tasks.base import UNSCORED, random_numbers
from siltstone.eval.watch import RoutingWatch, answers, watched
from siltstone.text import ByteTokenizer

LENGTH = 160
TASK = make("mqar", {"vocab_size": 64, "loads": (8,)})
BASE = st.LMConfig.from_dict(
    dict(
        vocab_size=259,
        d_model=32,
        heads=2,
        depth=2,
        mlp_dim=96,
        window=8,
        segment=16,
        segments="constant",
        cache="sparse",
        top_k=2,
    )
)
ARMS = {arm.name: arm for arm in arms(BASE, LENGTH)}


def model(name: str = "sparse") -> st.LM:
    return build(configured(BASE, ARMS[name], LENGTH), ARMS[name], 0).eval()


def streams(rows: int = 3):  # noqa: ANN201
    return TASK.batch(rows, LENGTH, random_numbers("mqar", "test", 0))  # type: ignore[attr-defined]


def hits(watch: RoutingWatch, lm: st.LM, widths: list[int]) -> dict[tuple[int, int], list[float]]:
    made, first, state, out = streams(), 0, None, {}
    where = answers(made)
    with torch.no_grad():
        for width in widths:
            part = slice(first, first + width)
            watch.tell(where[:, part], first)
            _, state = lm(torch.from_numpy(made.ids[:, part]), state)
            for row, place, hit in watch.take():
                out.setdefault((row, place), []).append(hit)
            first += width
    return out


def test_answers_are_where_the_value_was_said() -> None:
    made = streams()
    where = answers(made)
    rows, places = np.nonzero(made.targets != UNSCORED)
    assert (made.ids[rows, where[rows, places]] == made.targets[rows, places]).all() and (where >= 0).sum() == len(rows)


@pytest.mark.parametrize("routing", ["learned", "oracle"])
def test_hits_are_those_of_one_token_at_a_time(routing: str) -> None:
    lm = model()
    watch = RoutingWatch(lm, routing == "oracle")
    whole, single, cut = (hits(watch, lm, w) for w in ([LENGTH], [1] * LENGTH, [7, 50, 1, 70, 32]))
    assert whole == single == cut and watch.layers == 2 and all(len(x) == 2 for x in whole.values())
    where, segment, delay = answers(streams()), 16, 8
    sealed = {(r, t) for r, t in zip(*np.nonzero(where >= 0), strict=True) if (t - delay) // segment > where[r, t] // segment}
    assert whole.keys() == sealed  # the answer's segment was full, and the next one had begun
    shares = [x for found in whole.values() for x in found]
    assert all(shares) if routing == "oracle" else 0 < np.mean(shares) < 0.9


def test_watching_changes_nothing_and_the_oracle_something() -> None:
    made = streams()
    ids = torch.from_numpy(made.ids)
    with torch.no_grad():
        plain = model()(ids)[0]
        lm = model()
        watch = RoutingWatch(lm)
        watch.tell(answers(made))
        assert torch.equal(lm(ids)[0], plain)
        lm = model()
        oracle = RoutingWatch(lm, oracle=True)
        assert torch.equal(lm(ids)[0], plain)
        oracle.tell(answers(made))
        ruled = lm(ids)[0]
    asked = torch.from_numpy(made.targets != UNSCORED)
    assert not torch.equal(ruled[asked], plain[asked])


def test_hits_are_reported_where_there_is_a_choice() -> None:
    lm = model("sparse, random routing")
    rows = evaluate(lm, ByteTokenizer(), [TASK], [LENGTH], seeds=1, items=4)["rows"]
    assert 0 < next(row["mean"] for row in rows if row["score"] == "routing hit") < 1
    lm = model()
    rows = evaluate(lm, ByteTokenizer(), [TASK], [LENGTH], seeds=1, items=4, routing="oracle")["rows"]
    assert next(row["mean"] for row in rows if row["score"] == "routing hit") == 1.0
    by = random_numbers("mqar", "test", 0)
    gated = model("gated")
    assert "routing hit" not in {one.score for one in observe_tokens(gated, TASK, LENGTH, 2, by, watched(gated, "learned"))}  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="oracle routing needs a layer"):
        RoutingWatch(model("plain recurrence"), oracle=True)
    assert watched(model("plain recurrence"), "learned") is None


def test_a_model_is_left_as_it_was() -> None:
    """The same figures again and again, and nothing on the model that was not there."""
    for name, routing in (("sparse", "oracle"), ("sparse, random routing", "learned")):
        lm = model(name)
        before = [(part, vars(part).copy()) for part in lm.modules()]
        once, again = (evaluate(lm, ByteTokenizer(), [TASK], [LENGTH], seeds=1, items=1, routing=routing) for _ in range(2))
        assert once == again and [(part, vars(part)) for part in lm.modules()] == before


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that names no task, as those of early versions."""
    folder = tmp_path_factory.mktemp("plain")
    st.save(model(), ByteTokenizer(), folder)
    return folder


@pytest.mark.filterwarnings("ignore::siltstone.errors.FormatWarning")
@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"task": "mqar"}', '{"task": "x", "options": {}, "seed": 0, "routing": "learned"}']
    + [
        json.dumps({"task": "mqar", "options": o, "seed": s, "routing": r})
        for o, s, r in [(3, 0, "learned"), ({}, -1, "learned"), ({}, 0, "by heart")]
    ],
)
def test_damaged_facts_about_training(text: str, plain: Path) -> None:
    (plain / TRAINED).write_text(text)
    with pytest.raises(CheckpointError, match="task.json.* cannot be used"):
        trained_on(plain)
