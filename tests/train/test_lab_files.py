"""Files of a laboratory: damaged, of another recipe, of two processes, of a process that a signal stops.

The kinds of fault: files without a checksum, a result that belongs to another question, two writers, work that is lost.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.core.interrupt import Stopped
from siltstone.errors import CheckpointError, ConfigError, FormatWarning, InputError, SiltstoneError
from siltstone.eval.run import TRAINED, trained_on
from siltstone.io import claim, read_checked, write_checked
from siltstone.models.checkpoint import save
from siltstone.report.lab import lab_report
from siltstone.train.lab import found_recipe, run_lab, smoke
from siltstone.train.lab_run import RESULT, RESUME
from siltstone.train.recipe import Recipe
from siltstone.train.token_trainer import TokenTrainer

LAB = dataclasses.replace(smoke(), arms=("transformer",), items=2)
RUN = Path("transformer", "0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_lab(LAB, folder)
    return folder


def stopped(folder: Path) -> None:
    """A laboratory that is killed in its third step, after a checkpoint."""
    steps = 0

    def step(trainer: Any, fraction: float) -> float:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise EOFError
        return advance(trainer, fraction)

    advance = TokenTrainer.advance
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EOFError):
        patch.setattr(TokenTrainer, "advance", step)
        run_lab(LAB, folder)


def test_damage_of_results_is_told(finished: Path, tmp_path: Path) -> None:
    data, path, by = (finished / RUN / RESULT).read_bytes(), tmp_path / RUN / RESULT, random.Random(0)
    path.parent.mkdir(parents=True)
    damaged = [b"", data[: len(data) // 2], b"[]", b"[" * 10**5, b"{}", b"\xff\xfe", data.replace(b'"sealed": true,', b"")]
    for _ in range(100):
        at = by.randrange(len(data))
        damaged.append(data[:at] + bytes([data[at] ^ 1 << by.randrange(8)]) + data[at + 1 :])
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(CheckpointError, match="cannot be used"):
            run_lab(LAB, tmp_path)
        assert path.read_bytes() == each  # and is kept


@pytest.mark.parametrize("change", [
    lambda run: run.clear(), lambda run: run.pop("right"), lambda run: run.update(seed="0"), lambda run: run.update(arm=3),
    lambda run: run.update(rows=None), lambda run: run.update(rows=[{}]), lambda run: run["costs"].update(flops="many"),
    lambda run: run["right"].update({"32": None}), lambda run: run.update(curve=[[1, "x"]]), lambda run: run.update(tokens=True),
])  # fmt: skip
def test_results_are_checked(change: Callable[[dict[str, Any]], object], finished: Path, tmp_path: Path) -> None:
    """A file with a checksum is read only if it has what the report needs."""
    found, _ = read_checked(finished / RUN / RESULT)
    path = tmp_path / RUN / RESULT
    path.parent.mkdir(parents=True)
    write_checked(path, found)
    lab_report(run_lab(LAB, tmp_path) | {"command": "x"})
    change(found["run"])
    write_checked(path, found)
    with pytest.raises(CheckpointError, match="cannot be used"):
        run_lab(LAB, tmp_path)


@pytest.mark.parametrize("name", ["results", "checkpoint"])
def test_another_recipe_is_told_apart(name: str, tmp_path: Path) -> None:
    """Also before there are results: a checkpoint names its recipe."""
    if name == "results":
        run_lab(LAB, tmp_path)
    else:
        stopped(tmp_path)
    other = dataclasses.replace(LAB, recipe=dataclasses.replace(LAB.recipe, lr=1.0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="of another recipe"):
        run_lab(other, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    stopped(tmp_path)
    path, by = tmp_path / RUN / RESUME, random.Random(0)
    data = path.read_bytes()
    for _ in range(20):
        at = by.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << by.randrange(8)]) + data[at + 1 :])
        with pytest.raises(CheckpointError, match="cannot be used"):
            run_lab(LAB, tmp_path)


def test_a_task_belongs_to_its_model(finished: Path, tmp_path: Path) -> None:
    """Altered files are told; a task that another model left behind, and one of an early version, are not taken for its own."""
    assert (trained_on(finished / RUN) or {})["task"] == "mqar"
    data, (model, tok) = (finished / RUN / TRAINED).read_bytes(), st.load(finished / RUN)
    save(model, tok, tmp_path, beside={TRAINED: data})
    for other in (b"", data[:20], data.replace(b'"seed": 0', b'"seed": 1'), b"[]"):
        (tmp_path / TRAINED).write_bytes(other)
        with pytest.raises(CheckpointError, match="was altered"):
            trained_on(tmp_path)
    (tmp_path / TRAINED).unlink()
    with pytest.raises(CheckpointError):
        trained_on(tmp_path)
    save(model, tok, tmp_path)  # a model that was not trained on a task
    assert trained_on(tmp_path) is None
    (tmp_path / TRAINED).write_bytes(data)
    assert trained_on(tmp_path) is None
    early = {key: value for key, value in json.loads(data).items() if key != "version"}
    (tmp_path / TRAINED).write_text(json.dumps(early))
    with pytest.warns(FormatWarning):
        assert trained_on(tmp_path) == early
    for odd in ({}, early | {"task": 3}, early | {"options": [1]}, early | {"seed": "x"}, early | {"routing": None}):
        save(model, tok, tmp_path, beside={TRAINED: json.dumps(odd).encode()})
        with pytest.raises(CheckpointError, match="cannot be used"):
            trained_on(tmp_path)


def test_one_writer(tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir(parents=True)
    with claim(tmp_path / RUN):
        assert run_lab(LAB, tmp_path)["missing"] == [["transformer", 0]] and not (tmp_path / RUN / RESULT).exists()
    assert not run_lab(LAB, tmp_path)["missing"]


def test_results_come_before_their_checkpoint_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise EOFError

    with monkeypatch.context() as patch, pytest.raises(EOFError):
        patch.setattr("siltstone.train.lab.write_result", full)
        run_lab(LAB, tmp_path)
    said: list[str] = []
    run_lab(LAB, tmp_path, said.append)
    assert said[0] == "transformer, seed 0: resumed at step 4" and len(said) == 2  # nothing is trained again
    assert not (tmp_path / RUN / RESUME).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_step(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = dataclasses.replace(LAB, recipe=Recipe(steps=40, batch=4, save_every=30))
    steps = 0

    def step(trainer: Any, fraction: float) -> float:
        nonlocal steps
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), number)
        return advance(trainer, fraction)

    advance, before = TokenTrainer.advance, signal.signal(number, signal.default_int_handler)
    monkeypatch.setattr(TokenTrainer, "advance", step)
    try:
        with pytest.raises(Stopped) as stopped:
            run_lab(long, tmp_path / "a")
    finally:
        signal.signal(number, before)
    assert stopped.value.number == number
    said: list[str] = []
    again = run_lab(long, tmp_path / "a", said.append)["runs"][0]
    assert "transformer, seed 0: resumed at step 5" in said
    whole = run_lab(long, tmp_path / "b")["runs"][0]
    assert again["rows"] == whole["rows"] and again["steps"] == 40
    a, b = (st.load(tmp_path / name / RUN)[0] for name in "ab")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_command_stops_at_a_signal(tmp_path: Path) -> None:
    """The command line, in a process of its own: exit code 143, and the same command ends."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses, os, signal\nfrom siltstone.train.lab import smoke\n"
        "def few():\n"
        "    if not os.path.exists('once'):\n"
        "        open('once', 'x').close()\n"
        "        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "    return dataclasses.replace(smoke(), arms=('transformer',), items=2)\n"
    )
    words = [sys.executable, "-m", "siltstone", "lab", f"{file}:few", "--folder", "lab"]
    first, second = (subprocess.run(words, cwd=tmp_path, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 143 and first.stderr.strip().endswith("interrupted") and "Traceback" not in first.stderr
    assert second.returncode == 0 and (tmp_path / "lab" / "report.html").exists()


@pytest.mark.parametrize(
    "code", ["def f(:", "raise KeyError(3)", "def f():\n    return 1 / 0", "import nothing_of_this_name", "\0"]
)
def test_errors_of_a_recipe_are_told(code: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(InputError, match=r"mine.py cannot be run(, line \d+)?: \w+Error: "):
        found_recipe(f"{tmp_path}/mine.py:f")


@pytest.mark.parametrize("keys", [
    dict(items=0), dict(items=True), dict(seeds=()), dict(seeds=(True,)), dict(train=("x",)), dict(test=(0,)), dict(recipe=None),
    dict(options={"loads": object()}), dict(options={"nothing": 1}), dict(base={"d_model": {1}}),
    dict(base={"depth": float("nan")}),
], ids=lambda keys: next(iter(keys)))  # fmt: skip
def test_odd_recipes_are_refused(keys: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SiltstoneError):
        run_lab(dataclasses.replace(smoke(), **keys), tmp_path / "lab")
