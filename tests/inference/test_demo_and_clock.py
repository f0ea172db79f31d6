"""Saving by the clock, and the model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from siltstone.inference.reader import Reader
from tests.cli.commands import good, siltstone


def test_a_slow_stream_is_saved_by_the_clock(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siltstone.cli import stream

    file = tmp_path / "text.txt"
    file.write_text("Some words of no importance. " * 160)
    saves: list[int] = []
    monkeypatch.setattr(Reader, "save", lambda self, path: saves.append(self.session.position))
    good("stream", run, file, "--session", tmp_path / "a.silt")
    assert len(saves) == 1  # at the end
    monkeypatch.setattr(stream, "SECONDS", 0.0)
    good("stream", run, file, "--session", tmp_path / "a.silt")
    assert len(saves) > 3 and saves[1:] == sorted(saves[1:])


def test_the_model_that_ships_is_called_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert good("generate", "demo", "The President shall", "--max-new-tokens", 5).stdout.strip()
    (tmp_path / "demo").mkdir()  # a folder of that name goes first
    assert "lacks" in siltstone("generate", "demo", "Hello").stderr
