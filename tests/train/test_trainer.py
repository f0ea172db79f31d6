"""A step of training: states are carried, exchanged, cut off, saved and restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from siltstone.errors import CheckpointError, ConfigError
from siltstone.io import read_tensors, write_tensors
from siltstone.models.lm import LM
from siltstone.text import ByteTokenizer
from siltstone.train import Recipe, Trainer
from siltstone.train.corpus import build_corpus, hashed_files

from .conftest import configure, write_texts


def trainer(folder: Path, sizes: tuple[int, ...] = (900, 40, 2500, 1300), **keys: object) -> Trainer:
    files = hashed_files([write_texts(folder / "texts", sizes)])
    corpus = build_corpus(files, ByteTokenizer(), folder / "data")
    recipe = Recipe(**({"steps": 40, "batch": 3, "length": 16, "span": 48} | keys))  # type: ignore[arg-type]
    torch.manual_seed(recipe.seed)
    return Trainer(LM(configure(259)), corpus, recipe)


def test_the_loss_falls(tmp_path: Path) -> None:
    run = trainer(tmp_path, lr=1e-2)
    losses = [run.advance(i / 40)["loss"] for i in range(40)]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_states_are_carried_and_detached(tmp_path: Path) -> None:
    run = trainer(tmp_path, sizes=(5000, 5000), batch=2, span=10**4, foreign=0.0)
    for step in range(4):
        run.advance(0)
        assert run.state is not None
        assert run.state.position.tolist() == [16 * (step + 1)] * 2
        assert not any(x.requires_grad for x in run.state.tensors().values())


def test_a_step_is_a_forward_pass_from_the_carried_state(tmp_path: Path) -> None:
    """Two pieces with the learning rate at nothing cost what the same model asks for both in one call."""
    run = trainer(tmp_path, sizes=(5000,), batch=1, span=10**4, foreign=0.0, decay=0.0, precision="fp32")
    for group in run.optimizer.param_groups:
        group["lr"] = 0.0
    pieces = []
    walk = run.rows.next
    run.rows.next = lambda: pieces.append(walk()) or pieces[-1]  # type: ignore[method-assign]
    losses = [run.advance(0)["loss"] for _ in range(2)]  # fraction 0: rate 0
    assert run.state is not None
    phase = run.state.phase
    ids = torch.from_numpy(np.concatenate([p.ids for p in pieces], 1))
    targets = torch.from_numpy(np.concatenate([p.targets for p in pieces], 1))
    with torch.no_grad():
        logits, _ = run.model(ids, run.model.init_state(1, phase=phase))
    whole = torch.nn.functional.cross_entropy(logits[0], targets[0])
    assert np.mean(losses) == pytest.approx(float(whole), rel=1e-5)


def test_new_texts_begin_new_lives_with_random_phases(tmp_path: Path) -> None:
    run = trainer(tmp_path, sizes=(400,) * 6, batch=4, span=32, foreign=0.0)
    phases, positions = set(), []
    for _ in range(12):
        run.advance(0)
        assert run.state is not None
        phases |= set(run.state.phase.tolist())
        positions.append(run.state.position.copy())
    assert len(phases) > 3
    assert max(phases) < 8
    assert max(p.max() for p in positions) < 32 + 16


def test_foreign_states_make_lives_longer_than_their_texts(tmp_path: Path) -> None:
    run = trainer(tmp_path, sizes=(400,) * 6, batch=4, span=32, foreign=1.0)
    for _ in range(12):
        run.advance(0)
    assert run.state is not None
    assert run.state.position.tolist() == [12 * 16] * 4


def test_restoring_goes_on_bit_for_bit(tmp_path: Path) -> None:
    a = trainer(tmp_path, foreign=0.3)
    for _ in range(7):
        a.advance(0.5)
    a.save(tmp_path / "resume.safetensors", seconds=1.5)
    b = trainer(tmp_path, foreign=0.3)
    torch.manual_seed(99)
    assert b.restore(tmp_path / "resume.safetensors")["seconds"] == 1.5
    for _ in range(6):
        assert a.advance(0.6) == b.advance(0.6)
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    a.save(tmp_path / "a", seconds=0)
    b.save(tmp_path / "b", seconds=0)
    one, two = read_tensors(tmp_path / "a"), read_tensors(tmp_path / "b")
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    assert all(torch.equal(x, two[0][name]) for name, x in one[0].items() if name != "random.cpu")


def test_damaged_checkpoints(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    path = tmp_path / "resume.safetensors"
    run.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        trainer(tmp_path).restore(path)
    write_tensors(path, {"a": torch.zeros(1)}, {"version": "99", "meta": "{}"})
    with pytest.raises(CheckpointError, match="newer"):
        trainer(tmp_path).restore(path)
    write_tensors(path, {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="cannot be used"):
        trainer(tmp_path).restore(path)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.advance(0.5)
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(ConfigError, match="not a number at step 2"):
        run.advance(0.5)


def test_weight_decay_is_for_matrices(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    matrices, others = run.optimizer.param_groups
    names = {id(p): name for name, p in run.model.named_parameters()}
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all("norm" not in names[id(p)] and p.dim() >= 2 for p in matrices["params"])
    assert all("norm" in names[id(p)] or p.dim() < 2 for p in others["params"])
    assert len(matrices["params"]) + len(others["params"]) == len(names)
