"""cache="blocks" with a choice before every token from some position on: the oracle's logits, however the text is read."""

from __future__ import annotations

import itertools
import random
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.errors import InputError
from siltstone.models import lm
from siltstone.models.stream_state import LMState

from .common import PAD, Batch, close, differ, feed
from .models import same_bits, through_bytes
from .test_blocks import AGES, CASES, IDS, LENGTH, every_case, oracles, the_model, truth

FROM = 17  # the position from which tokens ask
AFTER = torch.arange(LENGTH) >= FROM


@cache
def asked(name: str, since: int = FROM) -> Tensor:
    """[LENGTH, vocabulary]: the oracle's logits of the first text, whose tokens ask from a position on."""
    return oracles(CASES[name] | dict(asking=since), the_model(name), IDS[0])


def begun(name: str, since: int = FROM, rows: int = 1) -> LMState:
    """Rows that have read the first text up to a position, and ask from there on."""
    return feed(the_model(name), IDS[:1, :since].expand(rows, -1), None, [5])[1].asking()


def test_the_cases_have_another_choice() -> None:
    """In most of them a finer choice has other logits, so that a coarse one would show."""
    apart = [name for name in CASES if differ(asked(name)[FROM:], truth(name)[0, FROM:])]
    assert len(apart) > len(CASES) // 2 and "plain" in apart and "every-token" not in apart
    for name in CASES:
        close(asked(name)[:FROM], truth(name)[0, :FROM])


@pytest.mark.parametrize("name", [name for name in CASES if {"exact", "votes"} & {*CASES[name]["cache_options"]}])
def test_keys_and_votes_choose_other_blocks(name: str) -> None:
    """Where a row asks, and nowhere else."""
    options = CASES[name]["cache_options"]
    means = CASES[name] | dict(cache_options=options | dict(exact=0, votes=0))
    assert differ(oracles(means | dict(asking=FROM), the_model(name), IDS[0])[FROM:], asked(name)[FROM:])
    close(oracles(means, the_model(name), IDS[0]), truth(name)[0])


@every_case
def test_every_split(name: str) -> None:
    for i, cuts in enumerate(([], [1, 2], [3, 10, 11], range(1, LENGTH - FROM))):
        y, state = feed(the_model(name), IDS[:1, FROM:], begun(name), cuts, inplace=i % 2 == 0)
        close(y[0], asked(name)[FROM:], f"cut at {cuts}")
        assert state.positions.from_here().all()


@every_case
def test_short_calls_are_one_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "ASKED", 4)
    mask = torch.ones(1, LENGTH - FROM, dtype=torch.bool)
    mask[0, 3] = False
    ids = torch.cat([IDS[:1, FROM : FROM + 3], IDS[:1, :1], IDS[:1, FROM + 3 : -1]], 1)
    y, _ = the_model(name)(ids, begun(name), mask=mask)
    close(y[0, mask[0]], asked(name)[FROM:-1])


@every_case
def test_rows_that_ask_beside_rows_that_do_not(name: str) -> None:
    """In calls, at other positions, and in steps of which some rows take part."""
    model, draw = the_model(name), random.Random(0)
    parts = [feed(model, IDS[:1, :age], model.init_state(1))[1] for age in AGES]
    state = LMState.cat([part.asking() if age >= 14 else part for age, part in zip(AGES, parts, strict=True)])
    wants = [asked(name, age) if age >= 14 else truth(name)[0] for age in AGES]
    ids = torch.stack([IDS[0, age : age + 9] for age in AGES])
    y, both = model(ids, state.fork())
    close(y, torch.stack([want[age : age + 9] for age, want in zip(AGES, wants, strict=True)]))
    close(
        model(IDS[0, [age + 9 for age in AGES]][:, None], both)[0][:, 0],
        torch.stack([w[a + 9] for a, w in zip(AGES, wants, strict=True)]),
    )
    for turn in range(12):
        at = state.position.tolist()
        active = torch.tensor([p < LENGTH and draw.random() < 0.8 for p in at])
        y, state = model.step(torch.stack([IDS[0, min(p, LENGTH - 1)] for p in at]), state, active, inplace=turn % 2 == 0)
        for b, p in enumerate(at):
            if active[b]:
                close(y[b], wants[b][p], f"turn {turn}, row {b}, position {p}")


@every_case
def test_kept_states_and_files(name: str) -> None:
    model = the_model(name)
    _, state = feed(model, IDS[:1, FROM:25], begun(name), range(1, 8))
    same_bits(through_bytes(model, state), state)
    for kept in (state.fork(), through_bytes(model, state), state.select([0])):
        close(model(IDS[:1, 25:], kept)[0][0], asked(name)[25:])


def test_a_row_that_begins_anew_does_not_ask() -> None:
    model = the_model("plain")
    batch = Batch.of([*range(FROM, 20), *range(9), PAD, *range(9, 30)])
    for cuts in ([], range(1, batch.width)):
        y, state = feed(model, batch.spread(IDS[0], 7), begun("plain"), cuts, mask=batch.mask, reset=batch.reset)
        close(y[0, :3], asked("plain")[FROM:20])
        close(y[0, 3:12], truth("plain")[0, :9])
        close(y[0, 13:], truth("plain")[0, 9:30])
        assert not state.positions.from_here().any()


@every_case
def test_no_more_questions(name: str) -> None:
    """The last choice holds until the next multiple of `route_every`; from there on choices are made there alone."""
    model = the_model(name)
    _, state = model(IDS[:1, FROM:23], begun(name))
    state = state.asking(False)
    outs = [feed(model, IDS[:1, 23:], state, cuts)[0] for cuts in ([], [4], range(1, LENGTH - 23))]
    for y in outs[1:]:
        close(y, outs[0])
    every = CASES[name]["cache_options"]["route_every"]
    assert not state.positions.from_here().any()
    if CASES[name]["depth"] == 1 and CASES[name].get("evict") != "use":
        close(outs[0][0, -(-23 // every) * every - 23 :], truth(name)[0, -(-23 // every) * every :])


def test_some_rows_of_a_state() -> None:
    state = the_model("plain").init_state(3).asking([True, False, True])
    assert state.positions.from_here().tolist() == [True, False, True]
    assert state.asking(torch.tensor([False, True, False])).positions.from_here().tolist() == [False, True, False]
    for wrong in ([True, False], [0, 1, 2], "x", 1, None):
        with pytest.raises(InputError, match="must be one bool, or one for each of 3 rows"):
            state.asking(wrong)


@pytest.mark.parametrize("cuts", [(), (9,), (3, 20), (29,), (30,), (31, 44)])
def test_rows_that_ask_later(cuts: tuple[int, ...]) -> None:
    """A position in the future gives what setting it there gives, in any split and in steps; each row has its own."""
    model, ids = the_model("plain"), torch.randint(11, (2, 60), generator=torch.Generator().manual_seed(3))
    since, state, got = np.array([30, 55]), model.init_state(2), []
    state = state.asking(since=torch.from_numpy(since))
    for first, end in itertools.pairwise([0, *cuts, 50]):
        logits, state = model(ids[:, first:end], state)
        got.append(logits)
    for i in range(50, 60):
        logits, state = model.step(ids[:, i], state)
        got.append(logits[:, None])
    for row in range(2):
        before, other = model(ids[row : row + 1, : since[row]])
        after, _ = model(ids[row : row + 1, since[row] :], other.asking())
        close(torch.cat(got, 1)[row : row + 1], torch.cat([before, after], 1))
    for wrong in ([1], [1.5, 2.0], "x", [True, False]):
        with pytest.raises(InputError, match="since=.* must be a position for each of 2 rows"):
            state.asking(since=wrong)


@pytest.mark.parametrize("wrong", [None, [-1], [1.5], [True], [0, 0], ["0"], 3])
def test_no_wrong_positions_of_a_file(wrong: object) -> None:
    model, state = the_model("plain"), begun("plain")
    with pytest.raises(InputError, match="asking must be a list of 1 whole numbers"):
        model.load_state(state.tensors(), state.meta() | {"asking": wrong})


def test_no_file_asks_later_or_without_blocks() -> None:
    model, state = the_model("plain"), begun("plain")
    for wrong in ([FROM + 1], [10**6]):
        with pytest.raises(InputError, match="asking must be at most the row's position"):
            model.load_state(state.tensors(), state.meta() | {"asking": wrong})
    other = st.LM(st.LMConfig.from_dict(CASES["plain"] | dict(pattern="w"))).eval()
    _, plain = other(IDS[:1])
    with pytest.raises(InputError, match='only rows of models with cache="blocks" ask'):
        other.load_state(plain.tensors(), plain.meta() | {"asking": [0]})


@pytest.mark.parametrize("flag", ["mask", "reset"])
def test_flags_of_long_calls_are_checked_as_a_whole(flag: str) -> None:
    ids = IDS[:1].repeat(1, 2)
    for wrong in (torch.ones(1, 100, dtype=torch.bool), torch.ones(80, dtype=torch.bool), [True] * 80):
        with pytest.raises(InputError, match=rf"{flag} must be a bool tensor of shape \(1, {ids.shape[1]}\)"):
            the_model("plain")(ids, begun("plain"), **{flag: wrong})
