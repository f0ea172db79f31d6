"""A small model's folder, a text, and commands that meet something on their way."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.text import ByteTokenizer
from tests.inference.conftest import small_model

TEXT = "It was a bright cold day, and the clocks were striking thirteen.\n" * 70
TRAIN = ["--preset", "nano", "--steps", "6", "--valid-every", "3", "--save-every", "2", "--batch", "2", "--length", "16", "-q"]
TRAIN += ["--set", "d_model=16", "--set", "heads=2", "--set", "depth=1", "--set", "window=8", "--set", "segment=8"]


@pytest.fixture(scope="session")
def model() -> st.LM:
    return small_model(segments="logarithmic", segment=64, depth=1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, model: st.LM) -> Path:
    """Its folder; a new session of it is beside it."""
    folder = tmp_path_factory.mktemp("runs")
    st.Session(model, ByteTokenizer()).save(folder / "a.silt")
    return st.save(model, ByteTokenizer(), folder / "run")


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(TEXT, "utf-8")
    (path.parent / "b.txt").write_text(TEXT[:500], "utf-8")
    return path


@pytest.fixture
def words(run: Path, file: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """A command that would do some work, by its name; what it writes is `out` in the test's folder."""
    out, held = str(tmp_path / "out"), str(file.parent / "b.txt")
    known = {
        "generate": ["generate", str(run), "Hello", "--session", out],
        "ask": ["ask", str(run), "What?", "Why?", "--doc", held, "--session", out, "--max-new-tokens", "20"],
        "stream": ["stream", str(run), str(file), "--session", out, "--every", "2000"],
        "train": ["train", str(file), "--out", out, "--valid", held, *TRAIN],
        "doctor": ["doctor", str(run), "--text", str(file), "--tokens", "64", "--out", out, "--quiet"],
        "demo": ["demo", "--run", str(run), "--tokens", "3000", "--report", out],
        "inspect": ["inspect", str(run.parent / "a.silt")],
        "list": ["list"],
        "bench": ["bench", "--quick", "--json-out", out],
    }
    return known.__getitem__


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`before("siltstone.models.checkpoint:load", 2, action)`: do it before that function is called for the second time."""

    def patch(place: str, count: int, action: Callable[[], Any]) -> None:
        home, _, name = place.partition(":")
        owner: Any = importlib.import_module(home)
        *inside, name = name.split(".")
        for part in inside:
            owner = getattr(owner, part)
        function, calls = getattr(owner, name), iter(range(1, 1 << 30))

        def call(*args: Any, **keys: Any) -> Any:
            if next(calls) == count:
                action()
            return function(*args, **keys)

        monkeypatch.setattr(owner, name, call)

    return patch


def send(number: int, times: int = 1) -> Callable[[], None]:
    def act() -> None:
        for _ in range(times):
            signal.raise_signal(number)

    return act
