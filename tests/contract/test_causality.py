"""A future token changes no past output, and a row no other row."""

from __future__ import annotations

import pytest
import torch

from .common import STREAM, close, init_state, the_layer
from .grid import CHOSEN, Case

every_pair = pytest.mark.parametrize("case", CHOSEN)


@every_pair
def test_no_gradient_flows_from_the_past_to_the_future(case: Case) -> None:
    layer = the_layer(case)
    x = STREAM[None].clone().requires_grad_()
    y, _ = layer(x, init_state(layer, 1, case.phase))
    for t in (0, case.first_cut - 1, case.first_cut, case.first_cut + 1, 20):
        (grad,) = torch.autograd.grad(y[:, : t + 1].sum(), x, retain_graph=True)
        assert torch.equal(grad[:, t + 1 :], torch.zeros_like(grad[:, t + 1 :]))
        assert grad[:, t].abs().max() > 0


@every_pair
def test_other_futures_have_the_same_past(case: Case) -> None:
    layer = the_layer(case)
    x = STREAM[None].repeat(2, 1, 1)
    x[1, 15:] = 30.0
    y, _ = layer(x, init_state(layer, 2, case.phase))
    close(y[1, :15], y[0, :15])


@every_pair
def test_rows_do_not_see_each_other(case: Case) -> None:
    layer = the_layer(case)
    x = torch.stack([STREAM, STREAM.flip(0) * 3, STREAM.roll(3, 0)]).requires_grad_()
    y, _ = layer(x, init_state(layer, 3, case.phase))
    (grad,) = torch.autograd.grad(y[1].sum(), x)
    assert torch.equal(grad[[0, 2]], torch.zeros_like(grad[[0, 2]]))
    for b in range(3):
        close(y[b], layer(x[b : b + 1], init_state(layer, 1, case.phase))[0][0])
