"""Files are whole or absent, and what the system refuses is one clear error."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from siltstone.errors import StorageError
from siltstone.io import atomic_file, sweep, write_bytes, write_json, write_text


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "één")
    write_bytes(tmp_path / "a.txt", b"two")
    write_json(tmp_path / "b.json", {"k": [1, "ü"]})
    assert (tmp_path / "a.txt").read_bytes() == b"two"
    assert (tmp_path / "b.json").read_text("utf-8") == '{\n "k": [\n  1,\n  "ü"\n ]\n}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.json"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_inside_removes_the_unfinished_file(tmp_path: Path, error: BaseException) -> None:
    write_bytes(tmp_path / "a.bin", b"old")
    with pytest.raises(type(error)), atomic_file(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("step", "number", "words"),
    [
        ("fsync", errno.ENOSPC, "disk is full"),
        ("replace", errno.EACCES, "cannot be written"),
        ("fsync", errno.EROFS, "read-only"),
    ],
)
def test_what_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, words: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    write_bytes(tmp_path / "a.bin", b"old")
    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(StorageError, match=words) as caught:
        write_bytes(tmp_path / "a.bin", b"new")
    assert str(tmp_path / "a.bin") in str(caught.value)
    assert isinstance(caught.value, OSError)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_disk_that_really_has_no_room(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the system itself refuses the write in the middle of the file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match="maximum size allowed"):
            write_bytes(tmp_path / "a.bin", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="folder does not exist"):
        write_bytes(tmp_path / "missing" / "a.bin", b"")
    write_bytes(tmp_path / "file", b"")
    with pytest.raises(StorageError, match="a file, not a folder"):
        write_bytes(tmp_path / "file" / "a.bin", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        write_bytes(tmp_path / "folder", b"x")


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.0123456789ab.tmp").write_bytes(b"half")
    (tmp_path / "kept.tmp").write_bytes(b"")
    assert sweep(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["kept.tmp"]
