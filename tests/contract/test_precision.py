"""Single precision: close to the oracle, and the same in any calls."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from ..oracle import layer as oracle_layer
from .common import STREAM, feed, init_state, the_layer, truth, weights
from .grid import CASES, CHOSEN, LENGTH, Case

TOLERANCE = 1e-5


def rounding(case: Case) -> float:
    """How far the oracle itself, run in float32, is from its float64: a read near 0 is made large by its norm, errors and all."""
    w = {name: p.detach().float() for name, p in weights(the_layer(case)).items()}
    y = oracle_layer.run(case.cfg, w, STREAM.float(), case.phase, cuts=case.cuts or ())
    assert y.dtype == torch.float32
    return float((y - truth(case).y).abs().max())


@pytest.mark.parametrize("case", CHOSEN)
def test_float32_is_close_to_the_oracle(case: Case) -> None:
    """1e-5, or twice as far as the oracle's own rounding takes it."""
    layer, want = copy.deepcopy(the_layer(case)).float(), truth(case).y
    x = STREAM.float()[None]
    bound = TOLERANCE * max(1.0, float(want.abs().max()))
    with torch.no_grad():
        for cuts in ([], [case.first_cut], range(1, LENGTH)):
            y, _ = feed(layer, x, init_state(layer, 1, case.phase), cuts)
            assert y.dtype == torch.float32
            worst = float((y[0] - want).abs().max())
            assert worst <= bound or worst <= 2 * rounding(case)


@pytest.mark.parametrize("memory", ["slstm", "slots"])
def test_exponents_of_two_hundred_do_not_overflow(memory: str) -> None:
    """Input gates of `slstm` from e^-200 to e^200, in the first write too; scores of `slots` likewise."""
    keys = dict(memory=memory, cache="gated", start="restart", segments="logarithmic")
    case = next(case for case in CASES if keys.items() <= case.factor.items())
    layer = copy.deepcopy(the_layer(case))
    rule = layer.mix.memory
    with torch.no_grad():
        if memory == "slots":
            rule.seek_scale.fill_(math.log(200.0))
        else:
            enter = slice(rule.val_dim * 2, rule.val_dim * 4)  # of both heads
            rule.write.weight[enter] *= 200 / rule.inputs(STREAM)["token"][:, enter].abs().max()
            found = rule.inputs(torch.cat([STREAM, -STREAM]))["token"][:, enter]
            assert found.max() > 150 and found.min() < -150
            assert found[0].max() > 30 and found[0].min() < -30
    single = copy.deepcopy(layer).float()
    for x in (STREAM, -STREAM):
        want = oracle_layer.run(case.cfg, weights(layer), x, case.phase).detach()
        bound = TOLERANCE * max(1.0, float(want.abs().max()))
        for cuts in ([], range(1, LENGTH)):
            y, _ = feed(single, x.float()[None], init_state(single, 1, case.phase), cuts)
            assert float((y[0] - want).detach().abs().max()) <= bound
        here = torch.arange(LENGTH) >= torch.tensor([[0], [9]])  # a row that seals its segments later
        y, _ = single(x.float().expand(2, -1, -1), init_state(single, 2, case.phase), mask=here)
        assert y[here].isfinite().all()
        grads = torch.autograd.grad(y[here].square().sum(), [*single.parameters()], materialize_grads=True)
        assert all(grad.isfinite().all() for grad in grads)
