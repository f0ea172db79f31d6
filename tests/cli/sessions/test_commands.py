"""`siltstone generate`, `stream` and `inspect`, as they are typed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

import siltstone as st
from siltstone.errors import CheckpointError
from siltstone.inference.reader import Reader
from siltstone.inference.session import Session
from siltstone.text import ByteTokenizer, train_bpe
from tests.cli.commands import good, receipt, refused, siltstone

ROOT = Path(__file__).resolve().parents[3]
TEXT = "It was a bright cold day — and the clocks, 東, were striking thirteen.\n" * 64


@pytest.fixture(scope="module")
def model(make_model: Any) -> st.LM:
    """One whose bank stays small."""
    return make_model(segments="logarithmic", segment=64, depth=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: st.LM, tok: ByteTokenizer) -> Path:
    """Its folder."""
    return st.save(model, tok, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(TEXT, "utf-8")
    return path


def same_file(a: Path, b: Path) -> bool:
    """Two session files of the same bytes (state, logits, sampler, counts)."""
    return a.read_bytes() == b.read_bytes()


# generate


def test_generate_writes_the_new_text_alone(run: Path, model: st.LM, tok: ByteTokenizer) -> None:
    s = st.Session(model, tok)
    s.append("Hello")
    text = "".join(s.generate(20, temperature=0.8, top_p=0.95, seed=3))
    result = good("generate", run, "Hello", "--max-new-tokens", 20, "--seed", 3)
    assert result.stdout == text + "\n" and result.stderr == ""


def test_generate_goes_on_with_a_session(run: Path, tmp_path: Path) -> None:
    whole = good("generate", run, "Hello", "--max-new-tokens", 12, "--session", tmp_path / "whole.silt").stdout
    halves = good("generate", run, "Hello", "--max-new-tokens", 6, "--session", tmp_path / "half.silt").stdout[:-1]
    halves += good("generate", run, "--max-new-tokens", 6, "--session", tmp_path / "half.silt").stdout
    assert same_file(tmp_path / "whole.silt", tmp_path / "half.silt")
    assert whole.replace("\ufffd", "") == halves.replace("\ufffd", "")  # a character may have been cut in two
    assert sorted(os.listdir(tmp_path)) == ["half.silt", "whole.silt"]


def test_generate_stops(run: Path) -> None:
    text = good("generate", run, "Hello", "--max-new-tokens", 40).stdout
    stop = next(c for c in text[5:] if c.isprintable())
    assert (
        good("generate", run, "Hello", "--max-new-tokens", 40, "--stop", "nothing", "--stop", stop).stdout
        == text[: text.index(stop)] + "\n"
    )


def test_generate_refuses(run: Path, tmp_path: Path, file: Path) -> None:
    refused(f"prompt is empty; give a PROMPT, for example: siltstone generate {run} 'The'", "generate", run)
    refused("temperature=-1.0", "generate", run, "x", "--temperature", -1)
    refused("is not a folder", "generate", tmp_path / "nothing", "x")
    refused("not a session file", "generate", run, "x", "--session", file)
    refused("cannot write", "generate", run, "x", "--session", tmp_path / "nowhere" / "a.silt")
    refused("cannot write", "generate", run, "x", "--session", file / "a.silt")
    refused("threads=0", "generate", run, "x", "--threads", 0)
    refused("device='abacus'", "generate", run, "x", "--device", "abacus")
    assert file.read_text("utf-8") == TEXT


def after(count: int, function: Callable[..., Any], action: Callable[[], Any]) -> Callable[..., Any]:
    """`function`, doing `action` before its call number `count`."""
    calls = iter(range(1, 1 << 30))

    def call(*args: Any, **keys: Any) -> Any:
        if next(calls) == count:
            action()
        return function(*args, **keys)

    return call


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_generate(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siltstone.inference import session

    monkeypatch.setattr(session, "sample", after(10, session.sample, ctrl_c))
    result = siltstone("generate", run, "Hello", "--session", tmp_path / "a.silt")
    assert result.exit_code == 130 and result.stdout.endswith("\n")
    position = st.Session.load(tmp_path / "a.silt", *st.load(run)).position
    assert 15 <= position < 40
    assert result.stderr == f"siltstone: interrupted; position {position} is saved in {tmp_path / 'a.silt'}\n"


def test_ctrl_c_while_a_prompt_is_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good("generate", run, "Hello", "--max-new-tokens", 1, "--session", tmp_path / "a.silt")
    before = (tmp_path / "a.silt").read_bytes()
    monkeypatch.setattr(Session, "_call", after(1, Session._call, ctrl_c))
    result = siltstone("generate", run, TEXT, "--session", tmp_path / "a.silt")
    said = f"siltstone: interrupted while the prompt was read; {tmp_path / 'a.silt'} is unchanged\n"
    assert (result.exit_code, result.stderr) == (130, said)
    assert (tmp_path / "a.silt").read_bytes() == before


# stream


def test_stream_counts_bits(run: Path, file: Path, model: st.LM, tok: ByteTokenizer) -> None:
    s, data = st.Session(model, tok), TEXT.encode()
    bits = -float(torch.nansum(s.append_scored(TEXT).double())) / math.log(2)
    result = good("stream", run, file, "--json", "--report", 2000)
    found = receipt(result)
    assert found["bits_per_byte"] == pytest.approx(bits / (len(data) - 1), rel=1e-5)
    assert [found[key] for key in ("tokens_read", "appended", "position", "bytes_read")] == [len(data)] * 4
    assert found["session_bytes"] == s.nbytes and found["restored"] == found["recomputed"] == 0
    assert sum(row.startswith("byte ") for row in result.stderr.splitlines()) == len(data) // 2046
    assert "O(log t)" in result.stderr and "KV cache" in result.stderr
    assert receipt(good("stream", run, "-", "--json", data=data))["bits_per_byte"] == found["bits_per_byte"]


def test_stream_with_a_bpe_tokenizer(tmp_path: Path, make_model: Any, file: Path) -> None:
    bpe = train_bpe(file, 400)
    run = st.save(make_model(vocab=bpe.vocab_size, segments="logarithmic"), bpe, tmp_path / "run")
    found = receipt(good("stream", run, file, "--json"))
    assert found["tokens_read"] == len(bpe.encode(TEXT)) < len(TEXT) / 3
    first = len(bpe.token_bytes(bpe.encode(TEXT)[0]))
    assert found["bytes_read"] == len(TEXT.encode()) == found["bytes_scored"] + first


def test_bits_of_each_line(run: Path, model: st.LM, tok: ByteTokenizer) -> None:
    lines = ["usual\n", "\n", "with \x1b[31m and tab\t\r\n", "long " * 900 + "\n", "last"]
    s, rows = st.Session(model, tok), []
    s.append(lines[0])
    for line in lines[1:]:
        bits = -float(s.append_scored(line).double().sum()) / math.log(2)
        rows.append(bits / len(line.encode()))
    result = good("stream", run, "--lines", data="".join(lines).encode())
    out = [row.split("\t", 1) for row in result.stdout.split("\n")[:-1]]
    assert [float(score) for score, _ in out[1:]] == pytest.approx(rows, abs=2e-3)
    assert [text for _, text in out][:3] == ["usual", "", "with \x1b[31m and tab\t"]
    assert out[3][1].endswith("…") and len(out[3][1]) < 3000 and out[4][1] == "last…"
    assert "KV cache" in result.stderr


def stopped(
    run: Path, file: Path, session: Path, monkeypatch: pytest.MonkeyPatch, feed: int, how: Callable[[], Any], *more: Any
) -> Result:
    """A stream in which something happens before piece number `feed` is read."""
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "feed", after(feed, Reader.feed, how))
        return siltstone("stream", run, file, "--session", session, *more)


def test_ctrl_c_in_stream_and_going_on(run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = receipt(good("stream", run, file, "--session", tmp_path / "whole.silt", "--json"))
    result = stopped(run, file, tmp_path / "a.silt", monkeypatch, 2, ctrl_c)
    assert result.exit_code == 130
    position = st.Session.load(tmp_path / "a.silt", *st.load(run)).position
    assert 2048 < position <= 4096
    assert result.stderr == (
        f"siltstone: interrupted at byte {position:,}; saved in {tmp_path / 'a.silt'}; the same command resumes there\n"
    )
    result = good("stream", run, file, "--session", tmp_path / "a.silt", "--json")
    found = receipt(result)
    assert f"{position:,} tokens restored; resuming at byte {position:,}" in result.stderr
    assert (found["restored"], found["recomputed"], found["appended"]) == (position, 0, whole["position"] - position)
    assert found["bits_per_byte"] == whole["bits_per_byte"] and found["tokens_read"] == whole["tokens_read"]
    assert same_file(tmp_path / "a.silt", tmp_path / "whole.silt")
    again = good("stream", run, file, "--session", tmp_path / "a.silt", "--json")  # nothing is left to read
    assert receipt(again)["appended"] == 0 and same_file(tmp_path / "a.silt", tmp_path / "whole.silt")


def test_ctrl_c_without_a_session(run: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "feed", after(2, Reader.feed, ctrl_c))
    result = siltstone("stream", run, file)
    assert result.exit_code == 130 and result.stderr.endswith("nothing is saved without --session\n")


def test_standard_input_goes_on(run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = receipt(good("stream", run, file, "--json"))
    data, session = TEXT.encode(), tmp_path / "a.silt"
    for more in (["--offset", None], []):
        stopped(run, file, session, monkeypatch, 3, ctrl_c)
        at = st.Session.load(session, *st.load(run)).notes["stream"]["offset"]
        result = good("stream", run, "--session", session, "--json", *[m or at for m in more], data=data if more else data[at:])
        assert f"resuming at byte {at:,}" in result.stderr and (f"--offset {at} skips to it" in result.stderr) is not bool(more)
        assert receipt(result)["bits_per_byte"] == whole["bits_per_byte"]
        session.unlink()


CHILD = """
import sys
from siltstone.cli.app import main
main(sys.argv[1:])
"""


def spawn(*words: Any, **keys: Any) -> Any:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "error", "-c", CHILD, *map(str, words), "--threads", "1"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, **keys)


def test_a_killed_stream_goes_on(run: Path, file: Path, tmp_path: Path) -> None:
    whole = receipt(good("stream", run, file, "--session", tmp_path / "whole.silt", "--json"))
    session = tmp_path / "a.silt"
    child = spawn("stream", run, "-", "--session", session, "--every", 2000)
    assert child.stdin
    child.stdin.write(TEXT.encode()[:4500])
    child.stdin.flush()
    until(session.exists, child)
    time.sleep(0.2)
    child.kill()
    child.communicate()
    at = st.Session.load(session, *st.load(run)).position
    assert 2000 <= at < 4500
    found = receipt(good("stream", run, file, "--session", session, "--json"))
    assert found["restored"] == at and found["recomputed"] == 0 and found["bits_per_byte"] == whole["bits_per_byte"]
    assert same_file(session, tmp_path / "whole.silt")


def until(ready: Callable[[], bool], child: Any) -> None:
    """Wait for something that the child will do."""
    for _ in range(6000):
        if ready() or child.poll() is not None:
            break
        time.sleep(0.05)
    assert ready(), child.communicate()


def test_ctrl_c_while_waiting_for_a_line(run: Path, tmp_path: Path) -> None:
    child = spawn("stream", run, "--lines", "--session", tmp_path / "a.silt", bufsize=0)
    assert child.stdin and child.stdout
    child.stdin.write(b"one line\nhalf a")
    assert child.stdout.readline().endswith(b"\tone line\n")  # while the next line is still on its way
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 130
    assert err.decode() == f"siltstone: interrupted at byte 9; saved in {tmp_path / 'a.silt'}; the same command resumes there\n"
    assert st.Session.load(tmp_path / "a.silt", *st.load(run)).position == 9


def test_another_text_is_not_gone_on_with(run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tmp_path / "a.silt"
    stopped(run, file, session, monkeypatch, 3, ctrl_c)
    other, short = tmp_path / "other.txt", tmp_path / "short.txt"
    other.write_text("Some other text. " * 1000)
    short.write_text("Some text.")
    refused("is not the text that this session has read", "stream", run, other, "--session", session)
    refused("the next byte to read is", "stream", run, short, "--session", session)
    found = receipt(good("stream", run, short, "--session", session, "--offset", 5, "--json"))
    assert (found["bytes_read"], found["tokens_read"]) == (5, 5) and found["restored"] > 4000


def test_a_session_of_generate_can_read_a_stream(run: Path, file: Path, tmp_path: Path) -> None:
    good("generate", run, "Hello", "--max-new-tokens", 3, "--session", tmp_path / "a.silt")
    found = receipt(good("stream", run, file, "--session", tmp_path / "a.silt", "--json"))
    assert found["position"] == 8 + found["tokens_read"] and found["bytes_read"] == len(TEXT.encode())
    good("generate", run, "and", "--max-new-tokens", 2, "--session", tmp_path / "a.silt")
    assert receipt(good("stream", run, file, "--session", tmp_path / "a.silt", "--json"))["tokens_read"] == found["tokens_read"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "standard input is empty"),
        (b"ok\xff no", "not valid UTF-8 at byte 2"),
        ("東".encode()[:2], "not valid UTF-8 at byte 0"),
        (TEXT.encode() + b"\x80", f"not valid UTF-8 at byte {len(TEXT.encode())}"),
        (b"\x7fELF\0\0", "byte 4 is zero"),
    ],
    ids=["empty", "invalid", "cut short", "late", "binary"],
)
def test_input_that_is_no_text(run: Path, tmp_path: Path, data: bytes, words: str) -> None:
    session = tmp_path / "a.silt"
    result = siltstone("stream", run, "--session", session, data=data)
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert session.exists() is (len(data) > 4096)  # what was read before it is saved
    if data:
        found = receipt(good("stream", run, "--errors", "replace", "--json", data=data))
        assert found["bytes_read"] == found["bytes_scored"] + 1 == len(data)


def test_stream_refuses(run: Path, file: Path, tmp_path: Path) -> None:
    refused("cannot be read", "stream", run, tmp_path / "nothing.txt")
    refused("cannot be read", "stream", run, tmp_path)
    refused("--errors 'ignore'", "stream", run, file, "--errors", "ignore")
    refused("cannot write", "stream", run, file, "--session", tmp_path / "nowhere" / "a.silt")
    refused("not a session file", "stream", run, file, "--session", file)
    refused("bytes before --offset", "stream", run, "--offset", 100, data=b"short")
    refused("the next byte to read is", "stream", run, file, "--offset", 10**6)
    (tmp_path / "empty.txt").touch()
    refused("is empty", "stream", run, tmp_path / "empty.txt")


def test_a_full_disk_while_streaming(run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    session = tmp_path / "a.silt"
    stopped(run, file, session, monkeypatch, 2, ctrl_c)
    before = session.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused_with_notice = siltstone("stream", run, file, "--session", session)
    assert refused_with_notice.exit_code == 2 and "the disk is full" in refused_with_notice.stderr
    assert session.read_bytes() == before and os.listdir(tmp_path) == ["a.silt"]


def test_a_made_up_note(run: Path, model: st.LM, tok: ByteTokenizer, file: Path, tmp_path: Path) -> None:
    s = st.Session(model, tok)
    for i, note in enumerate([5, {}, {"offset": -1, "bits": 0, "bytes": 0, "tokens": 0, "tail": "", "tail_bytes": 0}]):
        s.notes["stream"] = note
        s.save(tmp_path / f"{i}.silt")
        refused("note of its stream is invalid", "stream", run, file, "--session", tmp_path / f"{i}.silt")


def test_weights_that_are_no_numbers(make_model: Any, tok: ByteTokenizer) -> None:
    model = make_model()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(CheckpointError, match="not numbers"):
        Reader(st.Session(model, tok)).feed(b"text")


# inspect


def test_inspect(run: Path, file: Path, tmp_path: Path) -> None:
    session = tmp_path / "a.silt"
    good("stream", run, file, "--session", session)
    found = json.loads(good("inspect", session, "--json").stdout)
    assert found["position"] == len(TEXT.encode()) == found["stream"]["offset"]
    assert len(found["checkpoints"]) == ((found["position"] - 8 - 1) // 64).bit_count() and found["memory_layers"] == 1
    shown = good("inspect", session).stdout
    for words in (
        f"{found['position']:,} tokens",
        "window",
        "checkpoints",
        found["weights"][:30],
        found["tokenizer"][:30],
        "O(log t)",
    ):
        assert words in shown
    assert f"Checkpoints: {len(found['checkpoints'])} in the memory layer" in shown


def test_inspect_an_empty_session(model: st.LM, tok: ByteTokenizer, tmp_path: Path) -> None:
    st.Session(model, tok).save(tmp_path / "a.silt")
    assert "Checkpoints: 0" in good("inspect", tmp_path / "a.silt").stdout


def test_inspect_refuses(file: Path, tmp_path: Path, session: st.Session) -> None:
    refused("cannot be read", "inspect", tmp_path / "nothing.silt")
    refused("not a session file", "inspect", file)
    session.save(tmp_path / "a.silt")
    data = bytearray((tmp_path / "a.silt").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.silt").write_bytes(data)
    refused("was altered", "inspect", tmp_path / "a.silt")


def test_ctrl_c_in_inspect(tmp_path: Path, session: st.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from siltstone.inference import silt

    session.save(tmp_path / "a.silt")
    monkeypatch.setattr(silt, "_read", after(1, silt._read, ctrl_c))
    result = siltstone("inspect", tmp_path / "a.silt")
    assert (result.exit_code, result.stderr) == (130, "siltstone: interrupted\n")
