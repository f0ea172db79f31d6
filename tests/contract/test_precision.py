"""Single precision: close to the oracle, and the same in any calls."""

from __future__ import annotations

import copy

import pytest
import torch

from .common import STREAM, feed, init_state, the_layer, truth
from .grid import CHOSEN, LENGTH, Case

TOLERANCE = 1e-5


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_float32_is_close_to_the_oracle(case: Case) -> None:
    layer, want = copy.deepcopy(the_layer(case)).float(), truth(case).y
    x = STREAM.float()[None]
    bound = TOLERANCE * max(1.0, float(want.abs().max()))
    with torch.no_grad():
        for cuts in ([], [case.first_cut], range(1, LENGTH)):
            y, _ = feed(layer, x, init_state(layer, 1, case.phase), cuts)
            assert y.dtype == torch.float32
            assert float((y[0] - want).abs().max()) <= bound
