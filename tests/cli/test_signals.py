"""SIGINT, SIGTERM and SIGHUP at any moment of every command: one line, 128 + the number, work is saved, nothing is torn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.cli.app import main
from siltstone.core.interrupt import ForcedStop, Interrupts, Stopped, shielded
from tests.cli.commands import siltstone
from tests.cli.conftest import send

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# command, the function that is about to be called, for which time, and whether something is saved then
MOMENTS = [
    ("generate", "siltstone.models.checkpoint:load", 1, False),
    ("generate", "siltstone.inference.session:Session._call", 1, False),
    ("generate", "siltstone.inference.session:sample", 5, True),
    ("generate", "siltstone.inference.silt:write", 1, True),
    ("ask", "siltstone.inference.documents:surveyed", 1, False),
    ("ask", "siltstone.models.checkpoint:load", 1, False),
    ("ask", "siltstone.inference.session:Session._call", 1, True),
    ("ask", "siltstone.inference.silt:write", 1, True),
    ("ask", "siltstone.inference.session:sample", 25, True),
    ("stream", "siltstone.models.checkpoint:load", 1, False),
    ("stream", "siltstone.inference.reader:Reader.feed", 2, True),
    ("stream", "siltstone.inference.silt:write", 1, True),
    ("train", "siltstone.train.corpus:_encode", 1, False),
    ("train", "siltstone.train.trainer:Trainer.__init__", 1, False),
    ("train", "siltstone.train.trainer:Trainer.advance", 4, True),
    ("train", "siltstone.train.loop:score_documents", 2, True),
    ("train", "siltstone.train.trainer:Trainer.save", 2, True),
    ("doctor", "siltstone.doctor.run:survey", 1, False),
    ("doctor", "siltstone.doctor.run:write_text", 1, False),
    ("demo", "siltstone.demo.reading:read_chunk", 2, False),
    ("demo", "siltstone.demo.run:prove", 1, False),
    ("inspect", "siltstone.inference.silt:_read", 1, False),
    ("list", "siltstone.config.registry:described", 2, False),
    ("bench", "siltstone.bench.layers:against_package", 1, False),
]


def saved(command: str, out: Path, run: Path) -> bool:
    """Whether a command left a file or a run that can be gone on with."""
    if command == "train":
        if (out / "resume.safetensors").exists():
            st.load(out)
            return True
        return False
    if command in ("generate", "ask", "stream") and out.exists():
        st.Session.load(out, *st.load(run))
    return out.exists()


@pytest.mark.parametrize(("i", "moment"), [*enumerate(MOMENTS)], ids=[f"{m[0]}, {m[1].rpartition(':')[2]}" for m in MOMENTS])
def test_a_signal_at_any_moment(i: int, moment: Any, words: Any, before: Any, run: Path, tmp_path: Path) -> None:
    command, place, count, kept = moment
    number = SIGNALS[i % 3] if not kept else SIGNALS[1 + i % 2]
    before(place, count, send(number))
    result = siltstone(*words(command))
    assert result.exit_code == 128 + number, (result.output, result.exception)
    said = [line for line in result.stderr.splitlines() if line.startswith("siltstone: ")]
    assert len(said) == 1 and said[0].startswith("siltstone: interrupted"), result.stderr
    assert "Traceback" not in result.output
    assert saved(command, tmp_path / "out", run) is kept
    assert not list(tmp_path.rglob(".*.tmp"))
    assert not any(signal.getsignal(n) is not signal.SIG_DFL for n in SIGNALS[1:])  # handlers are what they were
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and Interrupts.active is None


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("command", "place"),
    [("generate", "siltstone.inference.session:sample"), ("train", "siltstone.train.trainer:Trainer.advance")],
)
def test_an_ignored_signal_stays_ignored(number: int, command: str, place: str, words: Any, before: Any) -> None:
    """As under nohup, and for SIGINT in the background of a script."""
    then = signal.signal(number, signal.SIG_IGN)
    try:
        before(place, 2, send(number))
        result = siltstone(*words(command))
        assert result.exit_code == 0 and "interrupted" not in result.stderr, result.output
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, then)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["generate", "stream"])
def test_a_second_signal_while_saving(command: str, number: int, words: Any, before: Any, run: Path, tmp_path: Path) -> None:
    place = {"generate": "siltstone.inference.session:sample", "stream": "siltstone.inference.reader:Reader.feed"}[command]
    before(place, 2, send(number))
    before("siltstone.io.atomic:os.fsync", 1, send(number))
    result = siltstone(*words(command))
    assert result.exit_code == 128 + number and saved(command, tmp_path / "out", run), result.output
    assert sorted(os.listdir(tmp_path)) == ["out"]


@pytest.mark.parametrize("command", ["generate", "stream", "train"])
def test_ctrl_c_again_and_again_ends_a_save_and_tears_nothing(
    command: str, words: Any, before: Any, run: Path, tmp_path: Path
) -> None:
    assert siltstone(*words(command)).exit_code == 0
    old = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.suffix in ("", ".safetensors") and p.is_file()}
    before("siltstone.io.atomic:os.fsync", 1, send(signal.SIGINT, 3))
    more = ["train", "--resume", "--out", tmp_path / "out", "--steps", 9, "-q"] if command == "train" else words(command)
    result = siltstone(*more)
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == "siltstone: interrupted"
    assert {p: p.read_bytes() for p in old} == old and not list(tmp_path.rglob(".*.tmp"))


def test_the_library_takes_over_no_signal_without_a_handler() -> None:
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_questions_waits_and_shields() -> None:
    with Interrupts() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked and stop.number == signal.SIGINT
        with pytest.raises(Stopped) as stopped:
            stop.check()
        assert stopped.value.number == signal.SIGINT
    with Interrupts() as stop, pytest.raises(Stopped), stop.waiting():
        with shielded():
            signal.raise_signal(signal.SIGINT)
            made = True
        raise AssertionError
    assert made
    with Interrupts(), pytest.raises(ForcedStop):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    done = []
    with pytest.raises(KeyboardInterrupt), shielded():  # without one of ours
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done
    with Interrupts() as outer:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped), Interrupts():
            raise AssertionError
    assert outer.asked


ENV = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
COMMAND = [sys.executable, "-W", "error", "-m", "siltstone"]


def spawn(*words: Any, **keys: Any) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *map(str, words)], env=ENV, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, **keys)


def test_processes_that_wait_are_stopped(run: Path, tmp_path: Path) -> None:
    """While a line is awaited, and while torch is imported; under `nohup`, not at all."""
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with (
        spawn("stream", run, "--lines", "--session", tmp_path / "a.silt") as watch,
        spawn("stream", run, "--lines", "--json", **ignored) as nohup,
        spawn("inspect", tmp_path / "none.silt") as early,
    ):
        time.sleep(0.4)
        early.send_signal(signal.SIGTERM)
        err = early.communicate(timeout=100)[1]
        assert early.returncode == 143 and err in (b"siltstone: interrupted\n", b"")
        for child in (watch, nohup):
            assert child.stdin and child.stdout
            child.stdin.write(b"one line\nhalf a")
            assert b"one line" in child.stdout.readline()
            child.send_signal(signal.SIGHUP)
        out, err = nohup.communicate(b" line", timeout=100)
        assert nohup.returncode == 0 and [json.loads(row) for row in out.splitlines()][-1]["bytes_read"] == 20
        said = watch.communicate(timeout=100)[1].decode()
    assert watch.returncode == 129 and said.startswith("siltstone: interrupted at byte 9; saved in "), said
    assert st.Session.load(tmp_path / "a.silt", *st.load(run)).position == 9


def test_a_stop_that_is_swallowed_comes_again(before: Any, words: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing that a finalizer raises gets out of it."""

    class Last:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def swallow() -> None:
        last = Last()
        del last
        time.sleep(5)

    hook = sys.unraisablehook
    before("siltstone.config.registry:described", 1, swallow)
    began = time.monotonic()
    result = siltstone(*words("list"))
    assert (result.exit_code, result.stderr) == (143, "siltstone: interrupted\n")
    assert time.monotonic() - began < 4 and sys.unraisablehook is hook and capfd.readouterr().err == ""


def test_a_write_that_nobody_reads_is_stopped(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before a pager that waits: the session is saved, and the end of the process is not held up."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    alarm = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    with open(writing, "w") as full, pytest.raises(SystemExit) as ended, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        alarm.start()
        main(["generate", str(run), "Hello", "--session", str(tmp_path / "a.silt")])
    alarm.join()
    os.close(reading)
    assert ended.value.code == 143
    assert 6 <= st.Session.load(tmp_path / "a.silt", *st.load(run)).position <= 10
