"""`siltstone chat`: turns from standard input, replies as they are written, and a session that is never lost."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.text import ByteTokenizer, tokenizer_from_json
from tests.cli.commands import good, refused, siltstone
from tests.cli.conftest import send
from tests.cli.test_signals import SIGNALS
from tests.cli.test_streams import broken, ended, full
from tests.inference.conftest import small_model

SHORT = ["--max-new-tokens", 8]


def loaded(path: Path, run: Path) -> st.Session:
    return st.Session.load(path, *st.load(run))


def test_turns_are_read_once_and_the_session_continues(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "me.silt"
    first = good("chat", run, "--session", out, *SHORT, data="Hello é\n\n  more  \n".encode())
    assert len(first.stdout) >= 2 and "recomputed" in first.stderr and "ms a token" in first.stderr
    at = loaded(out, run).position
    rows = good("chat", run, "--session", out, "--json", *SHORT, data=b"again\nand again\n").stdout.splitlines()
    *turns, receipt = map(json.loads, rows)
    assert [(x["turn"], x["user"]) for x in turns] == [(3, "again"), (4, "and again")]
    assert receipt["turns"] == 4 and receipt["restored"] == at and receipt["recomputed"] == 0
    news = [len(f"\nUser: {text}\nAssistant:") for text in ("again", "and again")]
    assert [x["tokens_read"] for x in turns] == news
    assert receipt["tokens_read"] == sum(news) and receipt["tokens_written"] == sum(x["tokens_written"] for x in turns) <= 16
    assert receipt["position"] == at + receipt["tokens_read"] + receipt["tokens_written"] == loaded(out, run).position
    whole = good("chat", run, "--session", tmp_path / "b.silt", "--json", *SHORT, data=b"Hello\nmore\n").stdout
    parts = [
        good("chat", run, "--session", tmp_path / "c.silt", "--json", *SHORT, data=x).stdout for x in (b"Hello\n", b"more\n")
    ]
    texts = [[json.loads(row).get("assistant") for row in part.splitlines()[:-1]] for part in (whole, *parts)]
    assert texts[0] == texts[1] + texts[2]  # the sampler is saved too


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_reply_is_written_keeps_it(number: int, run: Path, tmp_path: Path, before: Any) -> None:
    out = tmp_path / "me.silt"
    before("siltstone.inference.session:sample", 5, send(number))
    result = siltstone("chat", run, "--session", out, "--json", data=b"Hello\nmore\n")
    assert result.exit_code == 128 + number and "siltstone: interrupted; turn 1 is saved in" in result.stderr, result.output
    s, (turn, receipt) = loaded(out, run), map(json.loads, result.stdout.splitlines())
    assert s.notes["chat"]["turns"] == 1 and s.position == len("User: Hello\nAssistant:") + 5 == receipt["position"]
    assert not turn["whole"] and turn["tokens_written"] == 5
    assert "restored, after 1 turn" in good("chat", run, "--session", out, *SHORT, data=b"more\n").stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_turn_is_read_leaves_it_out(number: int, run: Path, tmp_path: Path, before: Any) -> None:
    out = tmp_path / "me.silt"
    good("chat", run, "--session", out, *SHORT, data=b"Hello\n")
    at = loaded(out, run).position
    before("siltstone.inference.session:Session._call", 2, send(number))
    result = siltstone("chat", run, "--session", out, data=b"more " * 300)
    assert result.exit_code == 128 + number, result.output
    s = loaded(out, run)
    assert s.position == at and s.notes["chat"]["turns"] == 1 and "recomputed" in result.stderr


@pytest.mark.parametrize(("out", "code"), [(broken, 141), (full, 2)])
def test_an_output_that_fails_keeps_what_was_written(
    out: Callable[[Path], Any], code: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with out(tmp_path) as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\nmore\n")))
        assert ended(["chat", str(run), "--session", str(tmp_path / "me.silt")]) == code
    s = loaded(tmp_path / "me.silt", run)
    assert s.notes["chat"]["turns"] == 1 and s.position > len("User: Hello\nAssistant:")
    assert "ms a token" in capfd.readouterr().err


def test_a_signal_while_a_line_is_awaited(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"Hello\n")
    alarm = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    with open(reading) as waits, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", waits)
        alarm.start()
        assert ended(["chat", str(run), "--session", str(tmp_path / "me.silt"), *map(str, SHORT)]) == 143
    alarm.join()
    os.close(writing)
    assert loaded(tmp_path / "me.silt", run).notes["chat"]["turns"] == 1


def test_what_cannot_be_said(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "me.silt"
    good("chat", run, "--session", out, "--system", "Be brief.", *SHORT, data=b"Hello\n")
    refused("begins a conversation", "chat", run, "--session", out, "--system", "Shout.", data=b"Hello\n")
    at = loaded(out, run).position
    result = siltstone("chat", run, "--session", out, *SHORT, data=b"more\n\xff\n")
    assert result.exit_code == 2 and "not valid UTF-8" in result.stderr
    assert loaded(out, run).position > at  # the turn before it is saved
    refused("at least 1", "chat", run, "--max-new-tokens", 0)


@pytest.mark.parametrize("template", ["{% for", "{{ ''.__class__ }}", "{{ raise_exception('no') }}", "nothing"])
def test_a_template_that_cannot_be_used(template: str, tmp_path: Path) -> None:
    settings = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": template}
    (tmp_path / "a.txt").write_text("some text " * 40, "utf-8")
    tok = tokenizer_from_json(st.train_bpe(tmp_path / "a.txt", 270).to_json(), json.dumps(settings))
    run = st.save(small_model(vocab=270, depth=1), tok, tmp_path / "run")
    refused("the chat template", "chat", run, "--session", tmp_path / "a.silt", data=b"Hello\n")
    assert not (tmp_path / "a.silt").exists()
    good("chat", run, "--plain", *SHORT, data=b"Hello\n")


def test_a_conversation_needs_no_session_file(run: Path) -> None:
    assert good("chat", run, *SHORT, data=b"").stdout == ""
    assert isinstance(st.Chat(st.Session(st.load(run)[0], ByteTokenizer())), st.Chat)
