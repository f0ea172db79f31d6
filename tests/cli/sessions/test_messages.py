"""What commands say: one style of errors, what is no session, what was read and what was scored, one and many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import siltstone as st
from siltstone.core.words import counted
from siltstone.demo import text
from siltstone.errors import SessionFileError
from siltstone.inference.reader import Reader
from siltstone.io import write_tensors
from siltstone.text import ByteTokenizer
from tests.cli.commands import good, receipt, refused, siltstone


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? See `siltstone --help`"),
        (["--bogus"], "No such option: --bogus; see `siltstone --help`"),
        (["train", "--stepz", "3"], "--stepz"),
        (["train", "--stepz", "3"], "see `siltstone train --help`"),
        (["train", "--steps"], "requires an argument; see `siltstone train --help`"),
        (["train", "--steps", "few"], "Invalid value for '--steps'"),
        (["stream", "demo", "--every", "-5"], "Invalid value for '--every': -5 "),
        (["doctor", "demo", "--tokens", "5"], "Invalid value for '--tokens': 5 "),
        (["inspect"], "Missing argument 'FILE'; see `siltstone inspect --help`"),
        (["list", "cache", "more"], "more"),
    ],
)
def test_words_that_a_command_does_not_take_are_an_error_like_any_other(words: list[str], said: str) -> None:
    refused(said, *words)


def test_help_is_what_it_was() -> None:
    bare, asked = siltstone(), siltstone("--help")
    assert asked.exit_code == 0 and asked.stdout.startswith("Usage: siltstone") and "doctor" in asked.stdout
    assert "Usage: siltstone" in bare.output and "siltstone: " not in bare.output
    assert good("train", "--help").stdout.startswith("Usage: siltstone train")


def test_inspect_says_what_was_given_instead_of_a_session(run: Path, tmp_path: Path) -> None:
    refused(f"it is the folder of a model (`siltstone doctor {run}` examines it); give a file that", "inspect", run)
    refused("it is a folder; give a file that `siltstone stream --session FILE`", "inspect", tmp_path)
    (tmp_path / "train.json").write_text("{}")
    refused("it is the folder of a run in training", "inspect", tmp_path)
    refused("describes no session; session files are what `siltstone stream", "inspect", run / "model.safetensors")
    refused("not a session file, or its first bytes were altered; session files are what", "inspect", run / "config.json")
    write_tensors(tmp_path / "bare.safetensors", {})
    refused("is not a session file", "inspect", tmp_path / "bare.safetensors")
    refused("the folder of a model", "inspect", "demo")
    with pytest.raises(SessionFileError, match="the folder of a model"):
        st.Session.load(run, *st.load(run))
    refused("the folder of a model", "generate", run, "x", "--session", run)


def test_inspect_says_that_bytes_count_reserved_room(run: Path, tmp_path: Path) -> None:
    sizes = []
    for data in (b"ab", b"cd"):
        good("stream", run, "--session", tmp_path / "a.silt", data=data)
        assert "State, with reserved memory" in good("inspect", tmp_path / "a.silt").stdout
        sizes.append(json.loads(good("inspect", tmp_path / "a.silt", "--json").stdout)["parts"]["window"])
    assert sizes[0] == sizes[1]


def test_generate_says_what_to_give(run: Path, tmp_path: Path) -> None:
    refused("top_k=0 must be a whole number of at least 1; leave it out for all tokens", "generate", run, "x", "--top-k", 0)
    refused("top_p=1.5 must be above 0 and at most 1; leave it out, or", "generate", run, "x", "--top-p", 1.5)
    refused("give the folder that `siltstone train --out` wrote, or demo", "generate", tmp_path, "x")


def test_bytes_read_and_bytes_scored(run: Path, tmp_path: Path) -> None:
    data = b"ten bytes."
    result = good("stream", run, "--json", "--session", tmp_path / "a.silt", data=data)
    found = receipt(result)
    assert (found["bytes_read"], found["bytes_scored"], found["tokens_read"]) == (10, 9, 10)
    assert "10 bytes, 10 tokens, 9 bytes scored (the session's first token is not), " in result.stderr
    again = receipt(good("stream", run, "--json", "--session", tmp_path / "a.silt", data=data))
    assert (again["bytes_read"], again["bytes_scored"]) == (20, 19)
    more = good("stream", run, "--json", "--session", tmp_path / "a.silt", "--offset", 5, data=data)
    assert (receipt(more)["bytes_read"], receipt(more)["bytes_scored"]) == (5, 5)
    rows = more.stderr.splitlines()
    assert "5 bytes, 5 tokens, " in more.stderr and "scored" not in next(row for row in rows if row.startswith("read "))
    one = good("stream", run, data=b"x").stdout
    assert "1 byte, 1 token, 0 bytes scored (the session's first token is not), - bits per byte" in one


def test_a_session_that_counted_scored_bytes_alone_goes_on(model: st.LM, tok: ByteTokenizer) -> None:
    session = st.Session(model, tok)
    session.notes["stream"] = {"offset": 7, "bits": 3.0, "bytes": 6, "tokens": 7, "tail": "", "tail_bytes": 0}
    assert Reader(session).receipt().bytes_scored == 6


def test_one_and_many() -> None:
    assert [counted(n, "step") for n in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]
    assert [counted(n, "speech", "speeches") for n in (1, 2)] == ["1 speech", "2 speeches"]


@pytest.mark.parametrize(("tokens", "said"), [(4, "1 held-out speech to Congress"), (30, "2 held-out speeches to Congress")])
def test_speeches_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int, said: str) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("Fellow citizens. ")
    (tmp_path / "heldout.json").write_text(json.dumps({"sotu": ["a.txt", "b.txt"]}))
    monkeypatch.setattr(text, "speeches_folder", lambda: tmp_path)
    found = text.reading(ByteTokenizer(), tokens, tmp_path)
    assert found.source == said
