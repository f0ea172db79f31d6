"""Which checkpoints a sparse policy picks."""

from __future__ import annotations

import pytest
import torch

from siltstone.ops.routing import top

MINUS = float("-inf")


@pytest.mark.parametrize(
    ("scores", "k", "newest_last", "want"),
    [
        ([3.0, 1.0, 2.0], 2, True, {0, 2}),
        ([1.0, 1.0, 1.0, 1.0], 2, True, {2, 3}),  # of equal scores the most recent
        ([1.0, 1.0, 1.0, 1.0], 2, False, {0, 1}),
        ([5.0, 1.0, 1.0, 1.0], 2, True, {0, 3}),
        ([5.0, 5.0, 1.0, 0.0], 2, True, {0, 1}),  # a tie that the cut does not run through
        ([2.0, MINUS, MINUS, MINUS], 2, True, None),  # hidden ones do not count as ties
        ([1.0, 1.0], 2, True, {0, 1}),
    ],
)
def test_ties_go_to_the_most_recent(scores: list[float], k: int, newest_last: bool, want: set[int] | None) -> None:
    given = torch.tensor([[scores]])
    found = set(top(given.nan_to_num(neginf=0.0), given == MINUS, k, newest_last)[0, 0].tolist())
    assert len(found) == k
    assert found == want if want is not None else 0 in found
