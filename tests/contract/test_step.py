"""One token of each row, at positions of their own: what a call of many tokens gives, for every case of the grid."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from siltstone.models.stream_state import LMState

from .common import STREAM, close, feed, init_state, the_layer, truth
from .grid import CASES, CHOSEN, LENGTH, Case

AGES = (0, 1, 4, 9, 14, 19)

TURNS = 16  # rows of all ages: together they take every token of the stream

every_case = pytest.mark.parametrize("case", CASES)
every_pair = pytest.mark.parametrize("case", CHOSEN)


def cuts_at(case: Case, positions: list[int]) -> Tensor | None:
    return None if case.cuts is None else torch.tensor([p in case.cuts for p in positions])


def aged(case: Case) -> LMState:
    """Rows that have read 0, 1, 4, ... tokens of the stream, in calls."""
    layer = the_layer(case)
    return LMState.cat([feed(layer, STREAM[None, :age], init_state(layer, 1, case.phase))[1] for age in AGES])


@every_case
def test_ragged_rows_step_as_calls_do(case: Case) -> None:
    """Rows of all ages step, some of them inactive, and some tokens take the other way."""
    layer, want, draw = the_layer(case), truth(case).y, random.Random(0)
    with torch.no_grad():
        state = aged(case)
        for turn in range(TURNS):
            at = state.position.tolist()
            active = torch.tensor([p < LENGTH and draw.random() < 0.8 for p in at])
            x = torch.stack([STREAM[min(p, LENGTH - 1)] for p in at])
            if turn % 7 == 3:
                cut = cuts_at(case, at)
                y, state = layer(x[:, None], state, mask=active[:, None], **({} if cut is None else {"cut": cut[:, None]}))
                y = y[:, 0]
            else:
                y, state = layer.step(x, state, active, cut=cuts_at(case, at), inplace=turn % 2 == 0)
            for b, p in enumerate(at):
                if active[b]:
                    close(y[b], want[p], f"turn {turn}, row {b}, position {p}")
            assert state.position.tolist() == [p + int(a) for p, a in zip(at, active, strict=True)]


@every_pair
def test_a_state_of_steps_is_one_of_calls(case: Case) -> None:
    """Steps to the middle, then a call; and reset rows begin anew."""
    layer, want, middle = the_layer(case), truth(case).y, LENGTH - 6
    with torch.no_grad():
        state, before = init_state(layer, 2, case.phase), None
        for p in range(middle):
            reset = torch.tensor([False, p == 3])
            at = [p, p if p < 3 else p - 3]
            y, state = layer.step(STREAM[at], state, cut=cuts_at(case, at), reset=reset)
            for b in range(2):
                close(y[b], want[at[b]], f"row {b}, position {at[b]}")
            before = state if p == 5 else before
        rest = torch.stack([STREAM[middle:], STREAM[middle - 3 : -3]])
        close(feed(layer, rest, state)[0], torch.stack([want[middle:], want[middle - 3 : -3]]), "a call after steps")
        assert before is not None
        again, _ = layer.step(STREAM[[6, 3]], before, cut=cuts_at(case, [6, 3]))
        close(again, want[[6, 3]], "a state that was kept")
