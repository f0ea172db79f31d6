"""Paths and numbers that cannot be: one clear line each, exit code 2, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import good, refused

HUGE, LATIN = "9" * 30, os.fsdecode(b"caf\xe9")
WHOLE = [
    *[("generate", o) for o in ("--max-new-tokens", "--top-k", "--seed", "--threads")],
    *[("stream", o) for o in ("--every", "--offset", "--report", "--threads")],
    *[("train", o) for o in ("--steps", "--batch", "--length", "--span", "--seed", "--save-every", "--valid-every")],
    *[("train", o) for o in ("--valid-tokens", "--threads")],
    *[("doctor", o) for o in ("--tokens", "--seed", "--threads")],
    *[("demo", o) for o in ("--tokens", "--threads")],
    ("bench", "--threads"),
]
SHARES = [("generate", "--temperature"), ("generate", "--top-p"), ("demo", "--seconds")]
SHARES += [("train", o) for o in ("--minutes", "--lr", "--warmup", "--decay", "--clip", "--foreign-state")]
OUTPUTS = [("generate", "--session"), ("stream", "--session"), ("demo", "--report"), ("demo", "--picture")]
OUTPUTS += [("doctor", "--out"), ("bench", "--json-out")]
INPUTS = [("doctor", "--text"), ("train", "--valid"), ("train", "--config"), ("train", "--tokenizer"), ("demo", "--run")]


@pytest.fixture
def start(run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The first words of a command, by its name, in an empty folder, which must be empty afterwards."""
    monkeypatch.chdir(tmp_path)
    known = {
        "generate": [run, "x"],
        "stream": [run, file],
        "train": [file, "--out", "r"],
        "doctor": [run],
        "demo": ["--run", run],
    }
    yield lambda command: [command, *known.get(command, [])]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("command", "option"), WHOLE, ids=lambda x: x)
def test_whole_numbers(command: str, option: str, start: Any) -> None:
    for given in (HUGE, f"-{HUGE}", "-5", "1.5", "nan", "few", ""):
        if (command, option, given) != ("generate", "--seed", "-5"):  # a seed of 64 bits may have a sign
            refused("", *start(command), option, given)


@pytest.mark.parametrize(("command", "option"), SHARES, ids=lambda x: x)
def test_numbers(command: str, option: str, start: Any) -> None:
    for given in ("nan", "inf", "-inf", "1e999", "much", ""):
        refused(f"'{given}' is not a finite number", *start(command), option, given)
    refused("-1.0", *start(command), option, -1)


@pytest.mark.parametrize(("command", "option"), OUTPUTS, ids=lambda x: x)
def test_what_no_file_can_take_the_place_of(command: str, option: str, start: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for given in ("/dev/null", "/dev/full", "fifo"):
        refused(f"{given} is a device, a pipe or a socket; give the name of a file", *start(command), option, given)
    (tmp_path / "fifo").unlink()
    (tmp_path / "folder").mkdir()
    refused("folder", *start(command), option, "folder")
    (tmp_path / "folder").rmdir()


@pytest.mark.parametrize(("command", "option"), [*OUTPUTS, *INPUTS, ("train", "--out")], ids=lambda x: x)
def test_paths(command: str, option: str, start: Any) -> None:
    for given, said in (
        ("", "it is empty; give a path"),
        ("a\0b", "zero byte"),
        ("n" * 256, "is too long"),
        ("n/" * 2100, "is too long"),
        ("\ud800", "not a valid file name"),
    ):
        refused(said, *start(command), option, given)


def test_arguments_that_are_paths(start: Any) -> None:
    for given, said in (("", "is empty"), ("a\0b", "zero byte"), ("n" * 256, "too long")):
        for command in (["inspect"], ["generate"], ["doctor"], ["stream"], ["train"], start("stream")[:2]):
            refused(said, *command, given)


def test_names_that_are_no_unicode(run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / LATIN).write_bytes(file.read_bytes())
    assert "caf\\udce9.silt" in good("inspect", _streamed(run)).stdout
    for words in ([LATIN], [file, "--valid", LATIN], [file, "--out", LATIN + "x"]):
        refused("is not valid Unicode text; give names and texts that UTF-8 can encode", "train", *words, "--steps", 1)
    assert sorted(os.listdir(tmp_path)) == sorted([LATIN, LATIN + ".silt"])


def _streamed(run: Path) -> str:
    good("stream", run, LATIN, "--session", LATIN + ".silt")
    return LATIN + ".silt"
