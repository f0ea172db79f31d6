"""Who may read a file: what the new file keeps of the old one's, and what it does where the system does not allow it."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from siltstone.errors import StorageError
from siltstone.io import system, write_bytes

ACL = "system.posix_acl_access"
# Version 2; the owner reads and writes, user 1234 reads, the group does nothing, the mask is r--, others do nothing.
ENTRIES = [(1, 6, 2**32 - 1), (2, 4, 1234), (4, 0, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)


def refusing(number: int) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that, as far as the program can see, belongs to another user and group; its group may write."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o664)
    lstat = os.lstat

    def seen(name: str | Path) -> os.stat_result:
        found = lstat(name)
        return os.stat_result((*found[:4], 4321, 5678, *found[6:])) if os.fspath(name) == str(path) else found

    monkeypatch.setattr(os, "lstat", seen)
    return path


def test_owner_and_group_stay(others: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(system, "chown", lambda handle, user, group: asked.append((user, group)))
    write_bytes(others, b"new")
    assert asked == [(4321, -1), (-1, 5678)]
    assert stat.S_IMODE(os.stat(others).st_mode) == 0o664


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EINVAL])
def test_another_group_may_do_no_more_than_everyone(others: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(system, "chown", refusing(number))
    write_bytes(others, b"new")
    assert others.read_bytes() == b"new" and stat.S_IMODE(os.stat(others).st_mode) == 0o644


@pytest.mark.parametrize("call", ["chown", "chmod"])
def test_a_failing_disk_is_told(others: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(system, call, refusing(errno.EIO))
    with pytest.raises(StorageError, match="disk failed"):
        write_bytes(others, b"new")
    assert others.read_bytes() == b"old" and os.listdir(others.parent) == ["a"]


def test_filesystems_without_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(system, "chmod", refusing(errno.EPERM))
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_access_lists_stay_or_are_tightened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its mask, the list shows in the group's permissions: without the list, the group would get what a user had."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o640)
    try:
        os.setxattr(path, ACL, LIST)
        write_bytes(path, b"new")
        assert os.getxattr(path, ACL) == LIST and stat.S_IMODE(path.stat().st_mode) == 0o640
    except OSError as error:  # a filesystem without access lists
        assert error.errno == errno.ENOTSUP
        monkeypatch.setattr(os, "listxattr", lambda file: [ACL] if isinstance(file, Path) else [])
        monkeypatch.setattr(os, "getxattr", lambda *_: LIST)
    monkeypatch.setattr(system, "set_attribute", refusing(errno.ENOTSUP))
    write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_folder_gives_to_new_files_is_not_given_to_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, removed = tmp_path / "a", []
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "listxattr", lambda file: [] if isinstance(file, Path) else [ACL])
    monkeypatch.setattr(system, "remove_attribute", lambda handle, name: removed.append(name))
    write_bytes(path, b"new")
    assert removed == [ACL]
