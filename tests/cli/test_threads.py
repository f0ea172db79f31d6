"""One thread for a small model, unless the user, the environment or the run says otherwise; the library sets none."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.core import machine
from siltstone.core.machine import SMALL, threads_said, use_threads
from siltstone.errors import ConfigError
from tests.cli.commands import good, receipt, siltstone
from tests.cli.conftest import TRAIN, send

SOURCE = Path(st.__file__).parent


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which torch takes two threads by itself (and, so that the tests are quick, does with one)."""
    count = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: count.__setitem__(0, number))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "_torch", 2)
    monkeypatch.setattr(machine, "_chosen", None)
    monkeypatch.setattr(machine, "processors", lambda: 2)


@pytest.mark.parametrize(
    ("given", "environment", "count", "said"),
    [
        ((None, SMALL - 1), None, 1, "1 thread (of 2; chosen for a small model, --threads changes it)"),
        ((None, SMALL), None, 2, "2 threads (of 2; chosen for a large model, --threads changes it)"),
        ((2, 10), None, 2, "2 threads (of 2; as --threads says)"),
        ((1, SMALL), "2", 1, "1 thread (of 2; as --threads says)"),
        ((None, 10), "2", 2, "2 threads (of 2; as OMP_NUM_THREADS says)"),
        ((None, SMALL, 1), None, 1, "1 thread (of 2; as the run began; --threads changes it)"),
        ((None, 10, 2), "1", 2, "2 threads (of 2; as the run began; --threads changes it)"),
        ((1, 10, 2), None, 1, "1 thread (of 2; as --threads says)"),
    ],
)
def test_who_decides(given: Any, environment: str | None, count: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    use_threads(*given)
    assert torch.get_num_threads() == count and threads_said() == said


@pytest.mark.parametrize("number", [0, -1, 257, 10**15])
def test_a_number_that_cannot_be(number: int) -> None:
    with pytest.raises(ConfigError, match=f"threads={number} must be a number from 1 to 256"):
        use_threads(number)


def test_threads_that_nobody_chose_are_told_plainly() -> None:
    assert threads_said() == "2 threads"
    use_threads(1)
    torch.set_num_threads(2)  # by the caller, afterwards
    assert threads_said() == "2 threads"


def test_the_demonstration_takes_one_thread_for_a_small_model_and_says_it(words: Any, before: Any) -> None:
    before("siltstone.demo.reading:read_chunk", 1, send(signal.SIGTERM))
    assert "1 thread (of 2; chosen for a small model, --threads changes it)" in siltstone(*words("demo")).stdout


@pytest.mark.parametrize("command", ["stream", "doctor", "generate"])
def test_a_command_takes_one_thread_for_a_small_model_and_says_it(command: str, words: Any, tmp_path: Path) -> None:
    said = "1 thread (of 2; chosen for a small model, --threads changes it)"
    result = good(*words(command))
    assert torch.get_num_threads() == 1 and (said in result.stdout or command == "generate")
    assert command != "doctor" or said in (tmp_path / "out").read_text("utf-8")
    if command == "stream":
        assert receipt(good(*words(command), "--json", "--threads", "2"))["threads"] == "2 threads (of 2; as --threads says)"


def test_tasks_and_the_laboratory_take_one_thread_for_a_small_model_and_say_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\nfrom siltstone.train.lab import smoke\n\ndef one():\n"
        "    return dataclasses.replace(smoke(), arms=('transformer',), items=2)\n"
    )
    lab = ["lab", f"{file}:one", "--folder", tmp_path / "lab", "--json"]
    task = ["eval", tmp_path / "lab" / "transformer" / "0", "--tasks", "mqar", "--lengths", "32", "--items", "1", "--json"]
    for command in (lab, task):
        torch.set_num_threads(2)
        found = json.loads(good(*command).stdout)["threads"]
        assert found == "1 thread (of 2; chosen for a small model, --threads changes it)" and torch.get_num_threads() == 1
        assert json.loads(good(*command, "--threads", "2").stdout)["threads"] == "2 threads (of 2; as --threads says)"


def test_a_resumed_run_keeps_its_threads(words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "threads         1 thread (of 2; chosen for a small model, --threads changes it)"
    assert said in good(*words("train")).stdout
    assert json.loads((tmp_path / "out" / "train.json").read_text())["threads"] == 1
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    again = ["train", "--resume", "--out", tmp_path / "out", "-q"]
    found = json.loads(good(*again, "--steps", "7", "--json").stdout)
    assert found["threads"] == 1 == torch.get_num_threads()
    assert "as --threads says" in good(*again, "--steps", "8", "--threads", "2").stdout


def test_training_leaves_torchs_threads_alone(file: Path, tmp_path: Path) -> None:
    from siltstone.train import fit, take_up

    result = siltstone("train", file, "--out", tmp_path / "run", *TRAIN, "--threads", "1")
    assert result.exit_code == 0
    torch.set_num_threads(2)
    assert fit(take_up(tmp_path / "run", {"steps": 8}))["threads"] == 2 == torch.get_num_threads()


def test_only_the_command_line_and_the_benchmarks_set_threads() -> None:
    found = [p for p in SOURCE.rglob("*.py") if re.search(r"set_num_threads|set_num_interop", p.read_text("utf-8"))]
    assert {str(p.relative_to(SOURCE)) for p in found} == {"core/machine.py", "bench/run.py", "bench/rules.py"}
    users = [p for p in SOURCE.rglob("*.py") if "use_threads(" in p.read_text("utf-8")]
    commands = {"cli/sessions.py", "cli/train.py", "cli/compare.py"}
    own = {"demo/resume.py", "train/lab.py"}  # in processes that they start
    assert {str(p.relative_to(SOURCE)) for p in users} == {"core/machine.py"} | commands | own
