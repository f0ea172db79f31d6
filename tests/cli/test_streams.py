"""Standard output and error as they come: closed, full, broken, in ASCII, narrow, a terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.bench import run as bench
from siltstone.bench.timing import Row
from siltstone.cli.app import main
from siltstone.core.terminal import LONGEST, escaped, say, shown
from siltstone.train.report import Display
from tests.cli.commands import good, siltstone

NASTY = "a\x1b[31m\x9b2J\x07\u202e\u2066\u200b\ud800\rb"
SAFE = r"a\x1b[31m\x9b2J\x07\u202e\u2066\u200b\ud800\rb"


class Terminal(io.TextIOWrapper):
    """Keeps what is written, and says that it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", newline="", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        buffer: Any = self.buffer
        return buffer.getvalue().decode()


def ended(words: list[str]) -> int:
    with pytest.raises(SystemExit) as done:
        main(words)
    return int(done.value.code or 0)


def broken(folder: Path) -> Any:
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


def full(folder: Path) -> Any:
    return open("/dev/full", "w")


def closed(folder: Path) -> None:
    return None


def ascii_(folder: Path) -> Any:
    return open(folder / "ascii", "w", encoding="ascii", errors="strict")


def latin(folder: Path) -> Any:
    return open(folder / "latin", "w", encoding="latin-1", errors="strict")


KINDS = [(broken, 141), (full, 2), (closed, 0), (ascii_, 0), (latin, 0)]
CASES = [(command, *kind) for command in ("generate", "ask", "stream", "train", "inspect", "list") for kind in KINDS]
CASES += [("doctor", broken, 141), ("demo", full, 2)]


@pytest.mark.parametrize(("command", "out", "code"), CASES, ids=[f"{c[0]} {c[1].__name__}" for c in CASES])
def test_standard_output_of_any_kind(
    command: str,
    out: Callable[[Path], Any],
    code: int,
    words: Any,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command_line, stream = words(command), out(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        found = ended(command_line)
    if stream is not None:
        stream.close()
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("siltstone: ")]
    assert (found, len(said)) == (code, int(code == 2)), said
    assert not said or "standard output cannot be written: No space left on device" in said[0]
    if command in ("generate", "ask", "stream"):
        assert st.Session.load(tmp_path / "out", *st.load(run)).position >= 6
    if command == "train":
        assert st.load(tmp_path / "out")


@pytest.mark.parametrize("kind", [broken, full, closed], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("command", ["generate", "ask", "stream", "train"])
def test_standard_error_that_fails_ends_no_work(
    command: str, kind: Callable[[Path], Any], words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_line, stream = [word for word in words(command) if word != "-q"], kind(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        found = ended(command_line)
        missing = ended(["inspect", "nothing.silt"])
    if stream is not None:
        stream.close()
    assert (found, missing) == (0, 2) and (tmp_path / "out").exists()


@pytest.mark.parametrize("end", ["stdin", "stdout"])
def test_streams_that_do_not_wait_are_waited_for(
    end: str, run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As left behind by other programs on the same terminal: a pause in the text is not its end."""
    reading, writing = os.pipe()
    os.set_blocking(reading if end == "stdin" else writing, False)
    text, got = file.read_bytes() * 3, []
    with open(reading) as source, open(writing, "w") as sink, monkeypatch.context() as patch:
        patch.setattr(sys, end, source if end == "stdin" else sink)
        if end == "stdin":
            other = threading.Timer(0.3, lambda: (sink.write("after a pause\n"), sink.close()))
        else:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
            other = threading.Timer(0.3, lambda: got.append(source.read()))
            (tmp_path / "a.txt").write_bytes(text)
        other.start()
        words = ["-"] if end == "stdin" else [str(tmp_path / "a.txt"), "--lines", "--json"]
        assert ended(["stream", str(run), *words, "--session", str(tmp_path / "a.silt")]) == 0
        if end == "stdout":
            sink.close()
        other.join()
    wanted = 14 if end == "stdin" else len(text)
    assert st.Session.load(tmp_path / "a.silt", *st.load(run)).position == wanted
    assert end == "stdin" or len(got[0].splitlines()) == text.count(b"\n") + 1


def test_what_would_command_a_terminal_is_escaped() -> None:
    plain = "é東😀\u200d👩 \t\r\n\xa0ok"
    assert escaped(NASTY) == SAFE and escaped(plain) == plain
    assert shown(NASTY, Terminal()) == SAFE and shown(NASTY, io.StringIO()) == NASTY
    assert escaped("a\rb\r") == r"a\rb\r"


def test_a_message_is_one_line_of_a_sane_length(capsys: pytest.CaptureFixture[str]) -> None:
    say("first\nsecond " + "x" * 10**6 + "\x1b[2J; the mend")
    said = capsys.readouterr().err
    assert said.startswith("siltstone: first second xxx") and said.endswith("\\x1b[2J; the mend\n")
    assert len(said) < LONGEST + 50 and said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", NASTY],
        ["train", NASTY],
        ["train", "{file}", "--preset", NASTY],
        ["train", "{file}", "--set", f"{NASTY}=1"],
        ["stream", "{run}", NASTY],
        ["stream", "{run}", "{file}", "--errors", NASTY],
        ["generate", "{run}", "x", "--device", NASTY],
        ["generate", "{run}", "x", "--session", f"{NASTY}/x"],
        ["doctor", NASTY],
        ["demo", "--run", NASTY],
        ["list", NASTY],
        [NASTY],
        ["list", f"--{NASTY}"],
        ["train", "--steps", NASTY],
        ["bench", "--threads", NASTY],
    ],
)
def test_names_in_errors_are_escaped(words: list[str], run: Path, file: Path) -> None:
    result = siltstone(*(word.format(run=run, file=file) if word[0] == "{" else word for word in words))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "\\x1b" in result.stderr and escaped(result.stderr) == result.stderr and "\r" not in result.stderr


@pytest.mark.parametrize("lines", [True, False])
def test_a_log_on_a_terminal_commands_nothing(lines: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"usual\n\x1b]0;title\x07 \xc2\x9b2J \xe2\x80\xae rm\n")
    with monkeypatch.context() as patch, Terminal() as terminal:
        patch.setattr(sys, "stdout", terminal)
        assert ended(["stream", str(run), str(log), *(["--lines"] if lines else [])]) == 0
        text = terminal.text
    assert "\x1b]" not in text and "\x9b" not in text and "\u202e" not in text
    assert not lines or r"\x1b]0;title\x07 \x9b2J \u202e rm" in text


def test_one_bad_byte_does_not_end_the_watch_of_a_log(run: Path, file: Path, tmp_path: Path) -> None:
    log = b"usual\nbad \xff\xe2\x82 byte\nzero \0\nlast\n"
    result = good("stream", run, "--lines", "--json", "--session", tmp_path / "a.silt", data=log)
    *rows, found = map(json.loads, result.stdout.splitlines())
    assert [row["replaced"] for row in rows] == [0, 3, 1, 0] and [row["offset"] for row in rows] == [0, 6, 19, 26]
    assert rows[1]["text"] == "bad \ufffd\ufffd byte" and found["bytes_replaced"] == 4 and found["bytes_read"] == len(log)
    assert "4 bytes replaced" in result.stderr
    again = good("stream", run, "--lines", "--json", "--session", tmp_path / "a.silt", data=b"\xff\n")
    assert json.loads(again.stdout.splitlines()[-1])["bytes_replaced"] == 5
    clean = json.loads(good("stream", run, file, "--json").stdout.splitlines()[-1])
    assert clean["bytes_replaced"] == 0
    for more in (["--lines", "--errors", "strict"], []):
        assert siltstone("stream", run, *more, data=log).exit_code == 2


def test_replaced_bytes_cost_no_less_than_they_hold(run: Path) -> None:
    """A thousand bytes of noise are no well foreseen text, however well the model foresees U+FFFD."""
    noise = bytes(0x80 + i * 37 % 64 for i in range(1000))
    found = json.loads(good("stream", run, "--errors", "replace", "--json", data=b"x" + noise).stdout)
    assert found["bytes_replaced"] == 1000 and found["bits_per_byte"] > 8


def constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("command", ["stream", "lines", "inspect", "list", "train", "doctor", "bench"])
def test_json_is_all_there_is_on_standard_output(
    command: str, words: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("claim", 1, "fp32", float("nan"), 1.0, float("inf"), None)
    monkeypatch.setattr(bench, "rows", lambda *_: iter([row]))
    more = {"lines": ["--lines", "--json"], "bench": []}.get(command, ["--json"])
    line = words("stream" if command == "lines" else command)
    result = good(*line, *more)
    rows = result.stdout.splitlines()
    found = [json.loads(row, parse_constant=constant) for row in (rows[-1:] if command == "bench" else rows)]
    assert all(isinstance(x, dict) for x in found) and len(found) == (71 if command == "lines" else 1)
    if command == "lines":
        assert found[0] == {"bits_per_byte": found[0]["bits_per_byte"], "text": found[1]["text"]} | {
            "cut": False, "offset": 0, "bytes": 64, "replaced": 0,
        }  # fmt: skip
    refused = siltstone(*[word if word != "--json" else "--jsn" for word in [*line, *more]], "--bogus")
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_nothing_is_cut_or_wrapped_without_a_terminal(
    words: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    found = json.loads(good(*words("inspect"), "--json").stdout)
    shown = good(*words("inspect")).stdout
    assert found["weights"] in shown and found["model"] in shown and "…" not in shown and "\x1b" not in shown
    claim = "a claim that is " + "long " * 60
    monkeypatch.setattr(bench, "rows", lambda *_: iter([Row(claim.strip(), 1, "fp32", 1.0, 1.0, 1.0, None)]))
    assert any(claim.strip() in row for row in good(*words("bench")).stdout.splitlines()[:-1])
    with Display() as display:
        display.say("step " * 100)
    assert capsys.readouterr().err == "step " * 100 + "\n"
