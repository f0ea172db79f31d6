"""The laboratory: a resumed run is the uninterrupted one, a transformer learns the task, and every arm runs to its report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.cli.app import main
from siltstone.errors import CheckpointError, ConfigError, DataError, InputError
from siltstone.eval.arms import arms, build, configured, tricks
from siltstone.eval.tasks.mqar import MQAR
from siltstone.io import claim
from siltstone.report.lab import lab_report
from siltstone.train import resume
from siltstone.train.lab import RECIPES, Lab, Stage, Way, _one, chosen_arms, easy, found_recipe, lessons, run_lab, smoke
from siltstone.train.recipe import Recipe
from siltstone.train.token_trainer import Lesson, TokenTrainer


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
    with pytest.raises(ConfigError, match="result of another recipe"):
        run_lab(dataclasses.replace(lab, items=5), tmp_path)


def test_every_arm_runs_to_its_report(tmp_path: Path) -> None:
    lab = dataclasses.replace(smoke(), recipe=Recipe(steps=1, batch=2), test=(64,), items=2)
    names = [arm.name for arm in arms(lab.config(), max(lab.train))]
    found = run_lab(lab, tmp_path)
    assert [run["arm"] for run in found["runs"]] == names and not found["missing"]
    assert {"blocks", "exact", "transformer"} <= set(names)
    page = lab_report(found | {"command": "siltstone lab smoke"})
    assert all(name in page for name in names)
    assert st.load(tmp_path / "blocks" / "0")[0].cfg.layer.cache == "blocks"


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


FEW = dataclasses.replace(smoke(), arms=("window only", "sparse"))


def test_a_deadline_keeps_a_checkpoint_and_the_same_command_continues(tmp_path: Path) -> None:
    whole = run_lab(FEW, tmp_path / "whole")
    asked = iter([False] * 3 + [True] * 1000)
    at, say = ("sparse", 0), []
    _one(FEW, tmp_path / "cut", at, Way(), say.append, lambda: next(asked))
    assert (tmp_path / "cut/sparse/0/training.safetensors").is_file() and "stopped at step 2" in say[-1]
    late = run_lab(FEW, tmp_path / "cut", way=Way(deadline=0.0))
    assert late["runs"] == [] and late["missing"] == [["window only", 0], ["sparse", 0]]
    found = run_lab(FEW, tmp_path / "cut")
    assert not found["missing"] and [run["rows"] for run in found["runs"]] == [run["rows"] for run in whole["runs"]]


def test_processes_share_a_laboratory(tmp_path: Path) -> None:
    place = tmp_path / "sparse/0"
    place.mkdir(parents=True)
    said: list[str] = []
    with claim(place):
        found = run_lab(FEW, tmp_path, said.append)
    assert found["missing"] == [["sparse", 0]] and "sparse, seed 0: another process trains it" in said
    assert run_lab(FEW, tmp_path)["missing"] == []


def test_jobs_give_the_same_results(tmp_path: Path) -> None:
    one, two = (run_lab(FEW, tmp_path / str(jobs), way=Way(jobs=jobs)) for jobs in (1, 2))
    for a, b in zip(one["runs"], two["runs"], strict=True):
        assert a["arm"] == b["arm"] and a["costs"] == b["costs"]
        assert [x["mean"] for x in a["rows"]] == pytest.approx([x["mean"] for x in b["rows"]], abs=0.02)


def test_every_trick_is_an_arm(tmp_path: Path) -> None:
    """Each differs from the arm that it begins with in what it is named after, and trains."""
    base = smoke().base | {"window": 4, "segment": 4, "cache": "sparse", "top_k": 2, "short_conv": 2}
    lab = dataclasses.replace(smoke(), base=base, recipe=Recipe(steps=6, batch=2), test=(32,), items=2)
    names = [arm.name for arm in tricks(lab.config(), 32)]
    found = run_lab(dataclasses.replace(lab, arms=("sparse", "gated", *names)), tmp_path)
    assert [run["arm"] for run in found["runs"]] == ["sparse", "gated", *names]
    assert len(names) == 9 and not set(names) & set(chosen_arms(lab))
    weights = {
        name: st.load(tmp_path / name.replace(", ", "-").replace(" ", "-") / "0")[0].embed.weight
        for name in ("sparse", "gated", *names)
    }
    for name in names:
        assert not torch.equal(weights[name], weights[name.split(", ")[0]]), name


STAGES = (Stage((16,), {"loads": (2,), "vocab_size": 16}, 2, 1e9, 1.0), Stage((24,), {"loads": (3,)}, None, 1e-9, 0.85))


def test_stages_come_before_the_task_and_are_resumed(tmp_path: Path) -> None:
    """The first stage ends with its cost (25 steps), the second with its share of the run; a resumed run goes on where it was."""
    lab = dataclasses.replace(FEW, arms=("sparse",), stages=STAGES, recipe=Recipe(steps=40, batch=4, save_every=100))
    assert lab.key != FEW.key and Lab.from_dict(json.loads(json.dumps(dataclasses.asdict(lab)))).key == lab.key
    asked: list[tuple[str, int, int, int]] = []
    batch = MQAR.batch

    def seen(task: MQAR, rows: int, length: int, by: Any) -> Any:
        made = batch(task, rows, length, by)
        asked.append((str(task.options.loads), rows, length, int(made.ids.max())))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MQAR, "batch", seen)
        over = iter([False] * 30 + [True])
        _one(lab, tmp_path / "cut", ("sparse", 0), Way(), lambda text: None, lambda: next(over))
        cut = run_lab(lab, tmp_path / "cut")
        steps, asked = asked[:40], []
        whole = run_lab(lab, tmp_path / "whole")
    assert [x[:3] for x in steps] == [("(2,)", 2, 16)] * 25 + [("(3,)", 4, 24)] * 9 + [("(4,)", 4, 32)] * 6
    assert max(x[3] for x in steps[:25]) < 16 and steps == asked[:40]
    for key in ("rows", "curve", "tokens"):
        assert cut["runs"][0][key] == whole["runs"][0][key]


def test_stages_that_cannot_be(tmp_path: Path) -> None:
    for keys, words in (
        ({"train": ()}, "train=.* must be whole numbers"),
        ({"below": 0.0}, "below=0.0 must be more than 0"),
        ({"until": 2.0}, "until=2.0 must be a share"),
        ({"batch": 0}, "batch"),
    ):
        with pytest.raises(ConfigError, match=words):
            dataclasses.replace(STAGES[0], **keys)
    with pytest.raises(ConfigError, match="a stage has 999 ids, more than the 64"):
        dataclasses.replace(FEW, stages=(Stage((16,), {"vocab_size": 999}),))


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"key": "x"}', None])
def test_damaged_results(damage: bytes | None, tmp_path: Path) -> None:
    lab = dataclasses.replace(FEW, arms=("window only",))
    run_lab(lab, tmp_path)
    path = tmp_path / "window-only/0/result.json"
    path.write_bytes(path.read_bytes().replace(b'"steps": 4', b'"steps": 5') if damage is None else damage)
    with pytest.raises(CheckpointError, match="(?s)result.json cannot be used: .*or remove its folder"):
        run_lab(lab, tmp_path)
    (tmp_path / "results.json").write_bytes(b"{")  # it is made from the results of the runs
    shutil.rmtree(tmp_path / "window-only")
    assert not run_lab(lab, tmp_path)["missing"]


@pytest.mark.parametrize(
    "code, said",
    [
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError"),
        ("def f(:\n", "line 1: SyntaxError"),
        ("def f():\n    return 1 / 0", "line 2: ZeroDivisionError"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit"),
        ("from siltstone.train.lab import Lab\ndef f():\n    return Lab()", "line 3: TypeError"),
        ("x = b'\\xff'.decode()", "line 1: UnicodeDecodeError"),
        ("from siltstone.train.lab import *\nimport dataclasses\n"
         "def f():\n    return dataclasses.replace(smoke(), options={'loads': {1}})", "must have values of JSON alone"),
    ],
)  # fmt: skip
def test_exceptions_in_a_recipe(code: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises((InputError, ConfigError), match=said):
        found_recipe(f"{file}:f")


def test_oracle_routing_is_an_arm(tmp_path: Path) -> None:
    lab = dataclasses.replace(smoke(), arms=("sparse, oracle routing", "sparse"), base=smoke().base | {"window": 4, "segment": 4})
    found = run_lab(lab, tmp_path)
    hits = {run["arm"]: run["routing_hits"]["64"] for run in found["runs"]}
    assert hits["sparse, oracle routing"] == 1.0 and hits["sparse"] < 1
    assert json.loads((tmp_path / "sparse-oracle-routing/0/task.json").read_text())["routing"] == "oracle"
    parity = dataclasses.replace(smoke(), task="parity", options={})
    assert "sparse, oracle routing" not in chosen_arms(parity) and len(chosen_arms(parity)) == len(chosen_arms(smoke())) - 1
    with pytest.raises(ConfigError, match="needs a task whose answers stand at one place"):
        chosen_arms(dataclasses.replace(parity, arms=("sparse, oracle routing",)))


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lab", "smoke", "--arm", "window only", "--arm", "sparse", "--folder", str(tmp_path)]
    for minutes, code in (["--minutes", "1e-9"], 75), ([], 0):
        with pytest.raises(SystemExit) as done:
            main([*words, *minutes])
        assert int(done.value.code or 0) == code
    said = capsys.readouterr()
    assert "2 runs are not finished" in said.err and "sparse, seed 0: 0." in said.out and (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_to_train(name: str) -> None:
    """Its arms exist, its stages have room, and a step of each lesson with two rows is trained."""
    lab = found_recipe(name)
    chosen = chosen_arms(lab)
    arm = next(iter(chosen.values()))
    model = build(configured(lab.config(), arm, max(lab.train), match=False), arm, 0)
    for lesson in [*lessons(lab), Lesson(lab.made(), lab.train, 2)]:
        lesson = dataclasses.replace(lesson, batch=2)
        trainer = TokenTrainer(model, lesson.task, dataclasses.replace(lab.recipe, batch=2), lesson.lengths, 0)
        assert trainer.advance(0.0) > 0
    assert json.loads(json.dumps(dataclasses.asdict(lab))) and Lab.from_dict(dataclasses.asdict(lab)) == lab
