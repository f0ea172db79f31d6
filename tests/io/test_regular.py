"""Files that are no files: each is refused at once, with a plain reason, by everything that reads."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.errors import InputError, SiltstoneError, StorageError
from siltstone.inference.describe import describe
from siltstone.io.regular import open_regular, read_limited
from siltstone.text import ByteTokenizer


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def listener(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
    return folder / "socket"


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


STRANGE: dict[str, Callable[[Path], Path]] = {
    "pipe": pipe,
    "socket": listener,
    "loop": loop,
    "folder": lambda folder: folder,
    "device": lambda folder: Path("/dev/zero"),
    "long": lambda folder: folder / ("x" * 300),
    "longer": lambda folder: folder / "/".join(["x" * 200] * 40),
    "zero byte": lambda folder: folder / "a\0b",
    "nothing": lambda folder: folder / "nothing",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_regular_file_is_an_os_error(kind: str, tmp_path: Path) -> None:
    path = STRANGE[kind](tmp_path)
    for read in (lambda: open_regular(path).__enter__(), lambda: read_limited(path, 10)):
        with pytest.raises(OSError) as error:
            read()
        assert error.value.strerror


@pytest.mark.parametrize("kind", STRANGE)
def test_every_reader_names_it(kind: str, tmp_path: Path) -> None:
    torch_model, tok = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=2)), ByteTokenizer()
    path = STRANGE[kind](tmp_path)
    readers: list[Callable[[], Any]] = [
        lambda: st.Session.load(path, torch_model, tok),
        lambda: describe(path),
        lambda: st.load(path),
        lambda: st.load_tokenizer(path),
    ]
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        folder = st.save(torch_model, tok, tmp_path / "run" / name)
        if kind not in ("long", "longer", "zero byte", "nothing"):
            (folder / name).unlink()
            (folder / name).symlink_to(path)
            readers.append(lambda folder=folder: st.load(folder))
    for read in readers:
        with pytest.raises(SiltstoneError):
            read()


def test_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_limited(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="at most 4 are read"):
        read_limited(tmp_path / "a", 4)


@pytest.mark.parametrize("value", [None, 5, b"a.silt", Path, ["a.silt"]])
def test_what_is_no_path(value: Any) -> None:
    """The number of an open file, for example, is not read."""
    model = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=2, window=4, segment=4, router_dim=4))
    tok = ByteTokenizer()
    session = st.Session(model, tok)
    for use in (st.load, describe, lambda path: st.Session.load(path, model, tok), session.save):
        with pytest.raises(InputError, match="path=.* must be the name of a f"):
            use(value)
    with pytest.raises(StorageError, match="zero byte"):
        session.save("a\0b")
