"""Every case of the grid: forward, gradients, splits and rows against the oracle."""

from __future__ import annotations

import itertools

import pytest
import torch

from siltstone.layers import reading

from .common import PAD, PROBE, STREAM, Batch, agrees, close, feed, gradients, init_state, named, the_layer, truth
from .grid import CASES, LENGTH, REST, Case, allowed, pairs

every_case = pytest.mark.parametrize("case", CASES)


def test_the_grid_covers_every_pair_of_values() -> None:
    """Pairs of the other keys appear together, in a case where both matter."""
    seen = set().union(*[pairs(case.factor) for case in CASES])
    for a, b in itertools.combinations(sorted(REST), 2):
        for left, right in itertools.product(REST[a], REST[b]):
            f = {name: values[0] for name, values in REST.items()} | {"memory": "linear", "cache": "sparse"}
            f |= {"start": "restart", "segments": "constant", a: left, b: right}
            if allowed(f) and ((a, left), (b, right)) in pairs(f):
                assert ((a, left), (b, right)) in seen


def test_pieces_are_answered_alike_together_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many checkpoints are gated piece by piece; the oracle's outputs and gradients hold there too."""
    monkeypatch.setattr(reading, "FEW", 0)
    chosen = [c for c in CASES if c.cfg["cache"] in ("gated", "soup") and c.cfg["segments"] != "logarithmic"]
    assert len(chosen) > 20
    for case in chosen:
        test_forward_and_gradients(case)


@every_case
def test_forward_and_gradients(case: Case) -> None:
    state = agrees(the_layer(case), STREAM, PROBE, truth(case), case.phase)
    assert state.position.tolist() == [LENGTH]


@every_case
def test_every_split(case: Case) -> None:
    """Calls of 0 tokens, of 1, and up to just before, at and after a cut."""
    layer, want = the_layer(case), truth(case).y[None]
    cut, x = case.first_cut, STREAM[None]
    with torch.no_grad():
        for cuts in ([0, cut - 1, cut - 1], [cut], [cut + 1, cut + 5, LENGTH], range(max(0, cut - 2), cut + 8)):
            close(feed(layer, x, init_state(layer, 1, case.phase), cuts)[0], want, f"cut at {cuts}")


@every_case
def test_rows_padding_resets_and_gradients_through_calls(case: Case) -> None:
    """Rows with padding left, right and inside, with resets, in three calls; they stand at different positions throughout."""
    layer, want = the_layer(case), truth(case)
    batch = Batch.of(
        [*range(3), PAD, *range(3, 11), PAD, PAD, *range(11, 28), PAD],
        [*range(9), *range(13), PAD, *range(2)],
        [*[PAD] * 6, *range(22)],
        [],
        [*range(15), PAD, PAD, *range(15, 27)],
    )
    x = STREAM.clone().requires_grad_()
    cuts = [case.first_cut + 1, 17]
    state = init_state(layer, 5, case.phase)
    y, state = feed(layer, batch.spread(x, 100.0), state, cuts, mask=batch.mask, reset=batch.reset)
    close(y[batch.mask], batch.spread(want.y, 0.0)[batch.mask])
    assert y.isfinite().all()
    assert state.position.tolist() == [28, 2, 22, 0, 27]
    dx, grads = gradients((y[0][batch.mask[0]] * PROBE).sum(), x, named(layer))
    close(dx, want.x_grad, "gradient of x")
    for name, grad in grads.items():
        close(grad, want.grads[name], f"gradient of {name}")
