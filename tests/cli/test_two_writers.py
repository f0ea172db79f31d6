"""Two commands that are given the same file or folder: the second is told, and nothing of the first is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.errors import FileChanged, InUse
from siltstone.io import claim
from siltstone.text import ByteTokenizer
from siltstone.train import Recipe, begin, fit, take_up
from tests.cli.commands import good, refused
from tests.train.conftest import configure, write_texts


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return st.save(st.LM(configure(259)), ByteTokenizer(), tmp_path / "model")


def test_a_claimed_session_file(run: Path, tmp_path: Path) -> None:
    file, text = tmp_path / "a.silt", tmp_path / "a.txt"
    text.write_text("Some words, and then some more. " * 20)
    with claim(file):
        refused("is being written by", "stream", run, text, "--session", file)
        refused("is being written by", "generate", run, "x", "--session", file)
    good("stream", run, text, "--session", file)
    good("generate", run, "x", "--session", file, "--max-new-tokens", 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.silt", "a.txt", "model"]


def test_two_streams_at_once(run: Path, tmp_path: Path) -> None:
    """The first waits for its input; the second ends with a line; the first then saves all that it read."""
    file = tmp_path / "a.silt"
    command = [sys.executable, "-m", "siltstone", "stream", str(run), "-", "--session", str(file)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdin is not None
    first.stdin.write("Some words, and then some more. " * 200)
    first.stdin.flush()
    lock = tmp_path / ".a.silt.lock"
    for _ in range(1200):
        if lock.exists() and lock.read_text().split()[:1] == [str(first.pid)]:
            break
        assert first.poll() is None
        subprocess.run(["sleep", "0.05"], check=True)
    refused(f"is being written by process {first.pid}", "stream", run, "-", "--session", file, data=b"others")
    first.stdin.close()
    assert first.wait(60) == 0, first.stderr and first.stderr.read()
    first.stdout and first.stdout.close()
    first.stderr and first.stderr.close()
    assert st.Session.load(file, *st.load(run)).position == 32 * 200
    assert not lock.exists()


def test_a_session_that_another_one_replaced(run: Path, tmp_path: Path) -> None:
    model, tok = st.load(run)
    file = tmp_path / "a.silt"
    first = st.Session(model, tok)
    first.append("begun")
    first.save(file)
    second, third = st.Session.load(file, model, tok), st.Session.load(file, model, tok)
    second.append(" and second")
    second.save(file)
    second.append(" again")
    second.save(file)
    for late in (first, third, third.fork()):
        with pytest.raises(FileChanged, match="another writer replaced it"):
            late.save(file)
    assert st.Session.load(file, model, tok).position == second.position
    third.save(tmp_path / "b.silt")
    third.save(file, overwrite=True)
    third.append("!")
    third.save(file)
    (tmp_path / "b.silt").unlink()
    third.fork().save(tmp_path / "b.silt")
    fresh = st.Session(model, tok)
    fresh.save(file)  # a session that never saw the file may write over it


@pytest.mark.parametrize("held", [True, False])
def test_one_run_at_a_time(held: bool, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    recipe = Recipe(steps=2, batch=2, length=16)
    run: Any = begin(tmp_path / "run", [texts], configure, recipe)
    if held:
        for again in (lambda: begin(tmp_path / "run", [texts], configure, recipe), lambda: take_up(tmp_path / "run", {})):
            with pytest.raises(InUse):
                again()
        refused("is being written by", "train", "--resume", "--out", tmp_path / "run")
    fit(run)
    take_up(tmp_path / "run", {"steps": 3}).close()
    assert fit(take_up(tmp_path / "run", {"steps": 3}))["steps"] == 3
    assert not (tmp_path / "run" / ".siltstone.lock").exists()
