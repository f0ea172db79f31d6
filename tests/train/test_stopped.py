"""A run that is stopped in a validation, or just before one: it says so, and when it is resumed nothing is missing."""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siltstone.cli.app import main
from siltstone.eval import stream as evaluation
from siltstone.train import Trainer
from siltstone.train.report import Metrics

from .conftest import write_texts
from .test_train_command import QUICK, weights

TRAIN = [*QUICK, "--steps", "6", "--valid-every", "3", "--save-every", "2"]
ENDS = {"seconds", "tokens_per_s", "folder"}  # what two runs may differ in


def ended(*words: Any) -> int:
    with pytest.raises(SystemExit) as done:
        main(["train", *map(str, words)])
    return int(done.value.code or 0)


def told(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "receipt.json").read_text())
    return {key: value for key, value in found.items() if key not in ENDS}


def scores(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["valid_bits_per_byte"]) for line in lines if "valid_bits_per_byte" in line]


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of a run of so many steps that nobody stopped."""

    @functools.cache
    def run(steps: int) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        texts = write_texts(folder / "texts")
        assert ended(texts, *TRAIN, "--valid", texts / "3.txt", "--steps", steps, "--out", folder / "run") == 0
        return folder / "run"

    return run


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.MonkeyPatch]:
    def patch(owner: Any, name: str, count: int, number: int) -> pytest.MonkeyPatch:
        function, calls = getattr(owner, name), iter(range(1, 1 << 30))

        def call(*args: Any, **keys: Any) -> Any:
            if next(calls) == count:
                signal.raise_signal(number)
            return function(*args, **keys)

        monkeypatch.setattr(owner, name, call)
        return monkeypatch

    return patch


@pytest.mark.parametrize(
    ("owner", "name", "count", "step", "steps"),
    [
        (evaluation, "stream_nats", 1, 3, 6),
        (evaluation, "stream_nats", 2, 6, 6),
        (Trainer, "advance", 3, 3, 6),
        (Trainer, "advance", 6, 6, 6),
        (Trainer, "save", 3, 5, 5),
        (Trainer, "save", 3, 6, 6),
    ],
    ids=["in the first", "in the last", "before the first", "before the last", "in the save before the last", "in the last save"],
)
def test_a_stop_leaves_out_no_validation(
    owner: Any,
    name: str,
    count: int,
    step: int,
    steps: int,
    uncut: Any,
    at: Any,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held, whole = ["--valid", texts / "3.txt", "--steps", steps], uncut(steps)
    cut, number = tmp_path / "cut", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP][count % 3]
    capsys.readouterr()
    with at(owner, name, count, number).context():
        code = ended(texts, *TRAIN, *held, "--out", cut)
    at(owner, name, 0, number)
    saw = scores(cut)
    if (name, step) == ("save", 6):  # the last validation was made: all was done
        assert code == 0 and told(cut) == told(whole)
        return
    assert code == 128 + number
    out, err = capsys.readouterr()
    assert err == f"siltstone: interrupted; step {step} is saved; resume with --resume --out {cut}\n" and out == ""
    assert told(cut)["interrupted"] is True and told(cut)["signal"] == number
    assert [s for s, _ in saw] == list(range(3, step, 3))
    assert ended("--resume", "--out", cut, "-q") == 0
    assert "held out" in capsys.readouterr().out
    assert told(cut) == told(whole) and told(cut)["valid_bits_per_byte"] > 0
    assert scores(cut) == scores(whole) and weights(cut) == weights(whole)
    assert ended("--resume", "--out", cut, "-q") == 0  # a finished run has nothing left to do
    assert scores(cut) == scores(whole) and told(cut) == told(whole)


def test_a_run_by_the_clock_that_is_stopped_in_its_last_validation(
    at: Any, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--minutes", "0.002", "--valid", texts / "3.txt", "--out", tmp_path / "run"]
    at(evaluation, "stream_nats", 1, signal.SIGTERM)
    assert ended(texts, *words) == 143 and "interrupted" in capsys.readouterr().err
    assert ended("--resume", "--out", tmp_path / "run", "-q") == 0
    assert "held out" in capsys.readouterr().out and len(scores(tmp_path / "run")) == 1


def test_a_score_of_other_tokens_is_no_score(texts: Path, tmp_path: Path) -> None:
    words = [texts, *TRAIN, "--valid", texts / "3.txt", "--out", tmp_path / "run"]
    assert ended(*words) == 0
    assert ended("--resume", "--out", tmp_path / "run", "--valid-tokens", "200", "-q") == 0
    assert [step for step, _ in scores(tmp_path / "run")] == [3, 6, 6]


def test_the_last_validation_is_known_again(tmp_path: Path) -> None:
    with Metrics(tmp_path / "metrics.jsonl", 0) as metrics:
        assert metrics.valid["step"] == -1
        metrics.write({"step": 3, "valid_bits_per_byte": float("nan"), "valid_bytes": 0})
        metrics.write({"step": 6, "valid_bits_per_byte": 2.0, "valid_bytes": 9})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    for step, bits in ((5, None), (6, 2.0)):
        (tmp_path / "again").write_text((tmp_path / "metrics.jsonl").read_text())
        with Metrics(tmp_path / "again", step) as metrics:
            assert metrics.valid["valid_bits_per_byte"] == bits
