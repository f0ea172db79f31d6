"""Random rows, masks, resets and splits, for every memory with every cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from .common import PAD, STREAM, Batch, close, feed, init_state, the_layer, truth
from .grid import CHOSEN, LENGTH, Case

TOKEN, PADDING, RESET = 0, 1, 2
Drawn = tuple[list[list[int]], list[int]]


@some.composite
def calls(draw: some.DrawFn) -> Drawn:
    """Up to three rows of what stands in each column, and the columns before which calls are cut."""
    width = draw(some.integers(0, LENGTH))
    what = some.sampled_from([TOKEN] * 12 + [PADDING] * 3 + [RESET])
    rows = draw(some.lists(some.lists(what, min_size=width, max_size=width), min_size=1, max_size=3))
    return rows, draw(some.lists(some.integers(0, width), max_size=5))


def plan(row: list[int]) -> list[int | None]:
    """Stream indices of a row: a reset starts again at 0."""
    out: list[int | None] = []
    at = 0
    for what in row:
        at = 0 if what == RESET else at
        out.append(PAD if what == PADDING else at)
        at += what != PADDING
    return out


@pytest.mark.parametrize("case", CHOSEN)
@settings(max_examples=6, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=calls())
def test_any_batch_in_any_calls(case: Case, drawn: Drawn) -> None:
    layer, (rows, cuts) = the_layer(case), drawn
    batch = Batch([plan(row) for row in rows])
    state = init_state(layer, len(rows), case.phase)
    with torch.no_grad():
        x = batch.spread(STREAM, -50.0)
        y, state = feed(layer, x, state, cuts, mask=batch.mask, reset=batch.reset)
        close(y[batch.mask], batch.spread(truth(case).y, 0.0)[batch.mask])
        assert y.isfinite().all()
        ends = [([-1] + [i for i in row if i is not None])[-1] + 1 for row in batch.plan]
        assert state.position.tolist() == ends
        rest = torch.stack([STREAM.roll(-end, 0) for end in ends])[:, :6]  # and on, each row from where it stands
        on = torch.stack([truth(case).y.roll(-end, 0) for end in ends])[:, :6]
        valid = torch.tensor([[end + i < LENGTH for i in range(6)] for end in ends])
        y, _ = layer(rest, state, mask=valid)
        close(y[valid], on[valid], "going on")
