"""The laboratory: a resumed run is the uninterrupted one, a transformer learns the task, and every arm runs to its report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import siltstone as st
from siltstone.errors import ConfigError, DataError, InputError
from siltstone.eval.arms import arms, build, configured
from siltstone.report.lab import lab_report
from siltstone.train import resume
from siltstone.train.lab import Lab, easy, found_recipe, run_lab, smoke
from siltstone.train.recipe import Recipe
from siltstone.train.token_trainer import TokenTrainer


def trainer(lab: Lab, name: str, seed: int = 0) -> TokenTrainer:
    arm = next(arm for arm in arms(lab.config(), max(lab.train)) if arm.name == name)
    return TokenTrainer(build(configured(lab.config(), arm, 32), arm, seed), lab.made(), lab.recipe, lab.train, seed)


def test_the_smoke_recipe_makes_run_folders_and_a_report(tmp_path: Path) -> None:
    lab = dataclasses.replace(smoke(), arms=("transformer", "sparse", "sparse, random routing"))
    found = run_lab(lab, tmp_path)
    assert [run["arm"] for run in found["runs"]] == list(lab.arms) and all(run["steps"] == 4 for run in found["runs"])
    said = []
    assert run_lab(lab, tmp_path, said.append)["runs"] == found["runs"] and not said  # nothing is trained again
    model, _ = st.load(tmp_path / "sparse" / "0")
    assert model.cfg.layer.cache == "sparse"
    assert json.loads((tmp_path / "sparse-random-routing/0/task.json").read_text())["routing"] == "random"
    page = lab_report(found | {"command": "siltstone lab smoke"})
    assert all(arm in page for arm in lab.arms) and "<svg" in page and "http-equiv" not in page
    with pytest.raises(ConfigError, match="results of another recipe"):
        run_lab(dataclasses.replace(lab, items=5), tmp_path)


@pytest.mark.parametrize("name", ["gated", "sparse, random routing"])
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    one, two, three = (trainer(smoke(), name) for _ in range(3))
    for step in range(4):
        one.advance(step / 4)
    for step in range(2):
        two.advance(step / 4)
    resume.save(two, tmp_path / "file", {"seconds": 1.0})
    resume.restore(three, tmp_path / "file")
    for step in range(2, 4):
        three.advance(step / 4)
    assert three.step == 4 and three.tokens == one.tokens
    assert all(torch.equal(x, y) for x, y in zip(one.parameters.values(), three.parameters.values(), strict=True))


def test_training_lowers_the_cost() -> None:
    lab = dataclasses.replace(easy(), recipe=Recipe(steps=60, batch=16))
    made = trainer(lab, "transformer")
    costs = [made.advance(step / 60) for step in range(60)]
    assert sum(costs[-5:]) / 5 < 0.75 * costs[0]


def test_recipes_are_found(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from siltstone.train.lab import smoke\n\ndef few():\n    return smoke()\n\ndef none():\n    return 3\n")
    assert found_recipe(f"{file}:few") == smoke()
    with pytest.raises(InputError, match="no function 'none' that returns"):
        found_recipe(f"{file}:none")
    with pytest.raises(InputError, match="recipe 'x' is not known"):
        found_recipe("x")
    with pytest.raises(DataError, match="does not exist"):
        found_recipe(f"{tmp_path}/other.py:few")
    with pytest.raises(ConfigError, match="'told' is a text task"):
        dataclasses.replace(smoke(), task="told", options={})
    with pytest.raises(ConfigError, match="arm 'x' is not known"):
        run_lab(dataclasses.replace(smoke(), arms=("x",)), tmp_path)
