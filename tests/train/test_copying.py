"""Rows of repeated strings, and steps of training with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from siltstone.models.lm import LM
from siltstone.train import copying

from .conftest import configure
from .test_trainer import trainer

TEXT = np.arange(5000) % 97


def test_every_token_that_is_asked_for_follows_from_an_earlier_string() -> None:
    ids, asked = copying.rows(TEXT, 200, 8, 300, np.random.default_rng(0))
    assert asked.any(1).all()
    for row, wanted in zip(ids, asked, strict=True):
        for at in np.flatnonzero(wanted):
            earlier = [s for s in range(1, at) if (row[s - 1 : s + 1] == row[at - 1 : at + 1]).all()]
            assert earlier, at


def test_half_of_the_rows_are_pieces_of_the_text() -> None:
    ids, asked = copying.rows(TEXT, 5000, 4, 300, np.random.default_rng(1))
    free = ~asked
    free[:, 1:] &= ~asked[:, :-1]
    assert (ids[1::2] < 97).all() and (ids[0::2][free[0::2]] > 97).any()


def test_the_distances_reach_from_near_to_the_beginning_of_the_row() -> None:
    near = far = 0
    for seed in range(20):
        ids, asked = copying.rows(TEXT, 10**6, 1, 1000, np.random.default_rng(seed))
        for at in np.flatnonzero(asked[0]):
            place = int(np.flatnonzero(ids[0][:at] == ids[0][at])[-1])
            near, far = near + (at - place < 100), far + (at - place > 300)
    assert near > 1000 and far > 800


def test_the_cost_is_that_of_the_tokens_that_are_asked_for() -> None:
    torch.manual_seed(0)
    model = LM(configure(259))
    ids, asked = copying.rows(TEXT, 259, 2, 64, np.random.default_rng(0))
    found = copying.cost(model, ids, asked, torch.device("cpu"))
    nats = -model(torch.from_numpy(ids))[0].log_softmax(-1)
    want = [nats[r, t - 1, ids[r, t]].item() for r, t in zip(*np.nonzero(asked), strict=True)]
    assert found.item() == pytest.approx(np.mean(want), rel=1e-4)


def test_the_first_steps_read_no_text_and_can_be_resumed(tmp_path: Path) -> None:
    one, two = (trainer(tmp_path, copying=4, copies=1, length=32) for _ in range(2))
    losses = [one.advance(0.1) for _ in range(7)]
    assert [figures["bytes"] for figures in losses[:4]] == [0] * 4 and all(figures["bytes"] for figures in losses[4:])
    assert one.tokens == 3 * 3 * 32
    for step in (2, 3):
        while two.step < step:
            two.advance(0.1)
        two.save(tmp_path / "at.safetensors")
        two = trainer(tmp_path, copying=4, copies=1, length=32)
        two.restore(tmp_path / "at.safetensors")
    again = [two.advance(0.1)["loss"] for _ in range(4)]
    assert again == [figures["loss"] for figures in losses[3:]]
