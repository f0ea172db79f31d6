"""`--spill DIR`: the same output, no file left, and a full disk leaves what was read in the session's file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.io import system
from siltstone.text import ByteTokenizer
from tests.cli.commands import good, refused

from ..inference.test_spill import KEYS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = st.LM(st.LMConfig.from_dict(KEYS | dict(checkpoint_dtype="int8"))).eval()
    return st.save(model, ByteTokenizer(), tmp_path_factory.mktemp("blocks") / "run")


def command(name: str, run: Path, doc: Path, session: Path) -> tuple[list[Any], bytes]:
    out = ["--session", session]
    given: dict[str, list[Any]] = {
        "generate": ["generate", run, "Once upon a time", "--max-new-tokens", 40, *out],
        "chat": ["chat", run, "--max-new-tokens", 20, *out],
        "ask": ["ask", run, "--doc", doc, "What?", "--max-new-tokens", 9, *out],
        "stream": ["stream", run, doc, "--lines", *out],
    }
    return given[name], b"Hello, how are you?\nAnd then?\n" if name == "chat" else b""


@pytest.mark.parametrize("name", ["generate", "chat", "ask", "stream"])
def test_the_same_output_and_no_file_left(name: str, folder: Path, file: Path, tmp_path: Path) -> None:
    place, doc = tmp_path / "pages", file.parent / "b.txt"
    place.mkdir()
    found = []
    for i, more in enumerate(([], ["--spill", place])):
        words, data = command(name, folder, doc, tmp_path / f"{i}.silt")
        found.append(good(*words, *more, data=data).stdout)
    assert found[0] == found[1] and found[0] and os.listdir(place) == []
    plain, other = (st.Session.load(tmp_path / f"{i}.silt", *st.load(folder)) for i in range(2))
    assert torch.equal(plain._last_logits(), other._last_logits())


@pytest.mark.parametrize("name", ["chat", "ask", "stream"])
def test_a_full_disk_keeps_what_was_read(
    name: str, folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the text before the failure, and the same command goes on from there."""
    doc, out, left, write = tmp_path / "doc.txt", tmp_path / "a.silt", [0], system.write_at
    doc.write_text("It was a bright cold day, and a line of some length.\n" * 150)
    words, data = command(name, folder, doc, out)
    good(*words, data=data)
    want = st.Session.load(out, *st.load(folder))
    out.unlink()

    def limited(handle: int, data: Any, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data, offset)

    monkeypatch.setattr(system, "write_at", limited)
    left[0] = 16 if name == "chat" else 30
    refused("No space left on device", *words, "--spill", tmp_path, data=data)
    assert os.listdir(tmp_path) and out.exists()
    kept = st.Session.load(out, *st.load(folder))
    assert 0 < kept.position < want.position
    left[0] = 10**6
    if name != "chat":
        good(*words, "--spill", tmp_path)
        assert st.Session.load(out, *st.load(folder)).position == want.position
        return
    assert kept.notes["chat"]["turns"] == 1  # the turn that failed is not in the notes either
    (_, second) = data.splitlines()
    good(*words, "--spill", tmp_path, data=second)
    again = st.Session.load(out, *st.load(folder))
    assert again.notes["chat"]["turns"] == 2 and again.position > kept.position


def test_a_document_that_cannot_be_begun_is_not_in_the_notes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first piece of the second document: the same command reads it later, once."""
    docs, out, write = [tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "a.silt", system.write_at
    for doc in docs:
        doc.write_text("It was a bright cold day, and a line of some length.\n" * 20)
    words = ["ask", folder, "--session", out, "--spill", tmp_path]
    good(*words, "--doc", docs[0])
    monkeypatch.setattr(
        system, "write_at", lambda *given: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    refused("No space left on device", *words, "--doc", docs[0], "--doc", docs[1])
    assert len(st.Session.load(out, *st.load(folder)).notes["documents"]) == 1
    monkeypatch.setattr(system, "write_at", write)
    good(*words, "--doc", docs[0], "--doc", docs[1])
    kept = st.Session.load(out, *st.load(folder))
    assert [(x["path"], x["read"]) for x in kept.notes["documents"]] == [(str(doc), doc.stat().st_size) for doc in docs]


def test_several_files_and_other_models(folder: Path, run: Path, file: Path, tmp_path: Path) -> None:
    refused("--spill is for one file", "stream", folder, file, file.parent / "b.txt", "--spill", tmp_path)
    refused("no layer of this one has blocks", "generate", run, "Hello", "--spill", tmp_path)
    refused("no page file can be made", "generate", folder, "Hello", "--spill", tmp_path / "nowhere")


def test_json_has_the_bytes_of_a_token(folder: Path, file: Path, tmp_path: Path) -> None:
    told = json.loads(good("stream", folder, file.parent / "b.txt", "--json", "--spill", tmp_path).stdout.splitlines()[-1])
    assert told["block_bytes_per_token"] > 0
