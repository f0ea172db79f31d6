"""Unfinished files: those of writers at work are left alone, those of dead ones are removed, and nothing else is."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from siltstone.errors import StorageError
from siltstone.io import atomic_file, sweep, system, write_bytes
from siltstone.io.place import short
from siltstone.io.spare import Spare

from ..threads import at_once
from .processes import running

WRITER = """
from siltstone.io.atomic import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""
DEAD = ".a.0123456789ab.tmp"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def no_locks(number: int) -> Callable[[int], None]:
    def lock(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return lock


def test_a_live_writer_keeps_its_file_and_a_killed_one_does_not(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with running(WRITER, target) as process:
        assert len(names(tmp_path)) == 1 and sweep(tmp_path) == 0
        write_bytes(target, b"second writer")
        assert len(names(tmp_path)) == 2
        process.kill()
        process.wait()
        assert sweep(tmp_path) == 1
    assert names(tmp_path) == ["a"]


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    with running(WRITER, tmp_path / "a") as process:
        process.kill()
        process.wait()
    (tmp_path / ".b.0123456789ab.tmp").write_bytes(b"of another file")
    (tmp_path / DEAD).write_bytes(b"of an older version")
    assert len(names(tmp_path)) == 3
    write_bytes(tmp_path / "a", b"new")
    assert names(tmp_path) == [".b.0123456789ab.tmp", "a"]


def test_two_writers_of_one_file_at_once(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as one:
        one.write(b"one")
        with atomic_file(tmp_path / "a") as two:
            two.write(b"two")
            assert len(names(tmp_path)) == 2 and sweep(tmp_path) == 0
        assert (tmp_path / "a").read_bytes() == b"two"
    assert (tmp_path / "a").read_bytes() == b"one" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 120])
def test_what_is_left_of_long_names(tmp_path: Path, name: str) -> None:
    spare = Spare(tmp_path / name, 0o600)
    os.close(spare.handle)
    (tmp_path / f".{short(name)}.0123456789ab.tmp").write_bytes(b"")
    assert len(names(tmp_path)) == 2
    write_bytes(tmp_path / name, b"")
    assert names(tmp_path) == [name]


FOREIGN = [".a.tmp", ".a.0123.tmp", ".a.0123456789AB.tmp", ".a.0123456789abc.tmp", "a.0123456789ab.tmp", ".a.0123456789ab.tmp~"]


def test_only_files_of_our_names_are_swept(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_bytes(b"kept")
    for name in FOREIGN:
        (inside / name).write_bytes(b"kept")
    (inside / ".a.00000000000a.tmp").mkdir()
    (inside / ".a.00000000000b.tmp").symlink_to(outside)
    os.mkfifo(inside / ".a.00000000000c.tmp")
    (inside / DEAD).write_bytes(b"half")
    kept = [name for name in names(inside) if name != DEAD]
    assert sweep(inside) == 1 and names(inside) == kept
    write_bytes(inside / "a", b"new")
    assert names(inside) == sorted([*kept, "a"]) and outside.read_bytes() == b"kept"
    assert sweep(tmp_path / "missing") == 0


def test_folders_of_many_files(tmp_path: Path) -> None:
    """A writer looks at the first names alone; what a lone writer left is found by its name alone."""
    for number in range(3000):
        os.mknod(tmp_path / f"{number:05}")
    spare = Spare(tmp_path / "a", 0o600)
    os.close(spare.handle)
    began = time.perf_counter()
    write_bytes(tmp_path / "a", b"new")
    assert time.perf_counter() - began < 1
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EBADF])
def test_filesystems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Files are written; what is older than a day counts as left behind."""
    monkeypatch.setattr(system, "lock", no_locks(number))
    for name, age in ((DEAD, 90_000), (".a.00000000000a.tmp", 80_000)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    for data in (b"one", b"two"):
        write_bytes(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data and names(tmp_path) == [".a.00000000000a.tmp", "a"]
    with atomic_file(tmp_path / "a") as file:
        file.write(b"three")
        assert sweep(tmp_path) == 0
        write_bytes(tmp_path / "a", b"second writer")
    assert (tmp_path / "a").read_bytes() == b"three"


def test_a_sweeper_that_is_quicker_than_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the birth of an unfinished file and its lock, a sweeper takes it for a dead writer's: another is begun."""
    lock, swept = system.lock, []

    def late(handle: int) -> None:
        if not swept:
            swept.append(1)
            swept.append(sweep(tmp_path))
        lock(handle)

    monkeypatch.setattr(system, "lock", late)
    write_bytes(tmp_path / "a", b"new")
    assert swept == [1, 1] and (tmp_path / "a").read_bytes() == b"new" and names(tmp_path) == ["a"]


def test_a_file_that_a_sweeper_has_locked_is_the_sweepers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the writer comes to remove it, its name may be that of another writer's file."""
    lock, sweeper = system.lock, []

    def late(handle: int) -> None:
        if not sweeper:
            (path,) = tmp_path.iterdir()
            sweeper.append(os.open(path, os.O_RDWR))
            lock(sweeper[0])
        lock(handle)

    monkeypatch.setattr(system, "lock", late)
    write_bytes(tmp_path / "a", b"new")
    assert len(names(tmp_path)) == 2 and (tmp_path / "a").read_bytes() == b"new"
    os.close(sweeper[0])
    assert sweep(tmp_path) == 1


def test_many_writers_and_sweepers(tmp_path: Path) -> None:
    """Each save succeeds, and the file is always a whole one."""

    def write(number: int) -> None:
        for _ in range(40):
            write_bytes(tmp_path / "a", bytes([number]) * 100_000)
            data = (tmp_path / "a").read_bytes()
            assert len(data) == 100_000 and len(set(data)) == 1
            sweep(tmp_path)

    at_once(*(partial(write, number) for number in range(4)))
    assert names(tmp_path) == ["a"]


def test_an_error_of_the_block_is_not_called_one_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    assert not isinstance(caught.value, StorageError) and names(tmp_path) == []
