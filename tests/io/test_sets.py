"""Files that are replaced together are replaced as single files are: links, permissions, devices, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from siltstone.errors import StorageError
from siltstone.io import write_bytes
from siltstone.io.sets import read_member, sha256, write_set

OLD, NEW = {"a": b"old a", "b": b"b"}, {"a": b"new a", "b": b"b"}


def save(folder: Path, files: dict[str, bytes]) -> None:
    write_set(folder, files, lambda hashes: write_bytes(folder / "all", repr(hashes).encode()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    save(tmp_path / "set", OLD)
    return tmp_path / "set"


def test_links_stay_and_what_they_lead_to_is_replaced(folder: Path) -> None:
    (folder / "a").rename(folder.parent / "real")
    (folder / "a").symlink_to("../real")
    save(folder, NEW)
    assert (folder / "a").is_symlink() and (folder.parent / "real").read_bytes() == NEW["a"]


def test_permissions_stay_also_while_it_is_staged(folder: Path) -> None:
    (folder / "a").chmod(0o600)
    modes: list[int] = []

    def manifest(hashes: dict[str, str]) -> None:
        modes.extend(path.stat().st_mode & 0o777 for path in folder.glob(".a.*.new"))

    write_set(folder, NEW, manifest)
    assert modes == [0o600] and (folder / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a", "all"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_before_anything_is_written(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    make = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/null"), "folder": os.mkdir}
    make[kind](folder / name)
    before = {path.name: path.lstat().st_ino for path in folder.iterdir()}
    with pytest.raises(StorageError, match=f"{name}: .*(a pipe|a device|a folder)"):
        write_set(folder, NEW, lambda hashes: _file(folder / "all"))
    assert {path.name: path.lstat().st_ino for path in folder.iterdir()} == before


def _file(path: Path) -> None:
    from siltstone.io import atomic_file

    with atomic_file(path) as file:
        file.write(b"all")


def test_an_error_leaves_nothing_staged_but_what_the_old_set_needs(folder: Path) -> None:
    (folder / "a").rename(folder / f".a.{sha256(OLD['a'])[:12]}.new")  # as after a kill behind the manifest

    def full(hashes: dict[str, str]) -> None:
        raise StorageError("the disk is full")

    for files in (NEW, OLD):
        with pytest.raises(StorageError):
            write_set(folder, files, full)
        assert read_member(folder, "a", sha256(OLD["a"])) == (OLD["a"], True)
        assert len(list(folder.glob(".*.new"))) == 1
