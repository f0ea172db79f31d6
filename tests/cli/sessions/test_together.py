"""`siltstone stream` with several files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.inference.reader import Reader
from tests.cli.commands import good, receipt, refused, siltstone

WORDS = {
    "a.log": "It was a bright cold day — and the clocks were striking.\n" * 90,
    "b.log": "short\n",
    "c.txt": "other words in another file, 東\n" * 20,
}
COUNTED = ("position", "bytes_read", "bytes_scored", "tokens_read", "appended", "restored", "recomputed")


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    for name, text in WORDS.items():
        (tmp_path / name).write_text(text, "utf-8")
    return [tmp_path / name for name in WORDS]


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in text.splitlines()]


def test_each_file_is_read_as_it_is_alone(run: Path, logs: list[Path]) -> None:
    *found, whole = rows(good("stream", run, *logs, "--json").stdout)
    assert [one["file"] for one in found] == [str(log) for log in logs]
    for one, log in zip(found, logs, strict=True):
        alone = receipt(good("stream", run, log, "--json"))
        assert [one[key] for key in COUNTED] == [alone[key] for key in COUNTED]
        assert one["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=1e-6)
        assert one["session_bytes"] == alone["session_bytes"]
    assert whole["files"] == 3 and "threads" in whole
    assert all(whole[key] == sum(one[key] for one in found) for key in (*COUNTED, "session_bytes", "kv_cache_bytes"))
    bits = sum(one["bits_per_byte"] * one["bytes_scored"] for one in found)
    assert whole["bits_per_byte"] == pytest.approx(bits / whole["bytes_scored"]) and whole["ms_per_token_first"] > 0


def test_a_line_for_each_file_and_one_receipt(run: Path, logs: list[Path]) -> None:
    out = good("stream", run, *logs, "--report", 2000).stdout.splitlines()
    assert [row.split("\t")[0] for row in out if "\t" in row] == [str(log) for log in logs]
    assert sum(row.startswith("read ") for row in out) == 1 and any("KV cache" in row for row in out)
    assert sum(row.startswith(f"{logs[0]}: byte ") for row in out) == len(WORDS["a.log"].encode()) // 2046


def test_the_lines_of_each_file(run: Path, logs: list[Path]) -> None:
    result = good("stream", run, *logs[1:], "--lines")
    found = [row.split("\t") for row in result.stdout.splitlines()]
    for log in logs[1:]:
        alone = good("stream", run, log, "--lines").stdout.splitlines()
        mine = [(float(bits), text) for name, bits, text in found if name == str(log)]
        assert [text for _, text in mine] == [row.split("\t")[1] for row in alone]
        assert [bits for bits, _ in mine] == pytest.approx([float(row.split("\t")[0]) for row in alone], abs=2e-3)
    lines = rows(good("stream", run, *logs[1:], "--lines", "--json").stdout)
    assert {row["file"] for row in lines[:-1]} == {str(log) for log in logs[1:]}
    assert [row["text"] for row in lines if row.get("file") == str(logs[1]) and "text" in row] == ["short"]
    assert [row["file"] for row in lines[-3:-1]] == [str(log) for log in logs[1:]] and lines[-1]["files"] == 2


@pytest.mark.parametrize("how", ["folder", "pattern"])
def test_an_interrupted_reading_goes_on(run: Path, logs: list[Path], tmp_path: Path, monkeypatch: Any, how: str) -> None:
    (tmp_path / "out").mkdir()
    where = {"folder": ["--session-dir", tmp_path / "out"], "pattern": ["--session", tmp_path / "out" / "{name}.silt"]}[how]
    whole = rows(good("stream", run, *logs, "--json").stdout)
    calls, account = iter(range(100)), Reader.account

    def stopping(self: Reader, *given: Any) -> Any:
        if next(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return account(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "account", stopping)
        result = siltstone("stream", run, *logs, *where)
    assert result.exit_code == 130 and "the same command resumes there" in result.stderr
    saved = [st.Session.load(tmp_path / "out" / f"{name}.silt", *st.load(run)).position for name in WORDS]
    assert 2000 < saved[0] < len(WORDS["a.log"].encode()) and saved[1] == 6
    result = good("stream", run, *logs, *where, "--json")
    assert f"{logs[0]}: {saved[0]:,} tokens restored" in result.stderr
    for one, want, position in zip(rows(result.stdout), whole, saved, strict=False):
        assert one["restored"] == position and one["recomputed"] == 0 and one["position"] == want["position"]
        assert one["bits_per_byte"] == pytest.approx(want["bits_per_byte"], rel=1e-6)
    alone = receipt(good("stream", run, logs[0], *where, "--json"))  # one file alone goes on from the same session
    assert alone["appended"] == 0 and alone["restored"] == whole[0]["position"]


def test_a_bad_file_does_not_stop_the_others(run: Path, logs: list[Path], tmp_path: Path) -> None:
    bad, empty = tmp_path / "bad.log", tmp_path / "empty.log"
    bad.write_bytes(b"good\n" * 3 + b"\xff\n")
    empty.write_bytes(b"")
    result = siltstone("stream", run, logs[2], bad, empty, "--session-dir", tmp_path, "--json")
    assert result.exit_code == 2 and f"error: {bad}: the input is not valid UTF-8 at byte 15" in result.stderr
    *found, whole = rows(result.stdout)
    assert found[0]["bytes_read"] == len(WORDS["c.txt"].encode()) and whole["files"] == 3
    assert (tmp_path / "c.txt.silt").exists()
    assert "is empty; give some text" in siltstone("stream", run, logs[1], empty).stderr
    assert good("stream", run, logs[2], bad, "--lines").stdout.count("good") == 3


def test_what_does_not_go_together(run: Path, logs: list[Path], tmp_path: Path) -> None:
    a, b, _ = logs
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.log").write_text("twin")
    refused("standard input (-) is among several files", "stream", run, a, "-")
    refused("--offset is for one input", "stream", run, a, b, "--offset", 3)
    refused("put {name} into its name", "stream", run, a, b, "--session", tmp_path / "one.silt")
    refused("give one of them", "stream", run, a, "--session", tmp_path / "one.silt", "--session-dir", tmp_path)
    refused("would both save", "stream", run, a, tmp_path / "sub" / "a.log", "--session-dir", tmp_path)
    refused("standard input has no name", "stream", run, "--session-dir", tmp_path)
    refused("does not exist", "stream", run, a, b, "--session-dir", tmp_path / "none")
    refused("cannot be read", "stream", run, a, tmp_path / "none.log")
    assert not list(tmp_path.glob("*.silt"))


def test_a_pipe_is_read_alone(run: Path, logs: list[Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR)
    refused("is not a regular file; read it alone", "stream", run, logs[0], tmp_path / "pipe")
    os.close(held)
