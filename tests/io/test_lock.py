"""Claims: one writer at a time, until it ends in any way; and comparing before replacing."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from siltstone.errors import FileChanged, InUse, StorageError
from siltstone.io import ABSENT, atomic_file, claim, stamp, system, write_bytes

from ..threads import at_once
from .processes import command, running

HOLDER = """
from siltstone.io.lock import claim
held = claim(sys.argv[1])
if not os.fork():  # a child that outlives it
    print("ready", flush=True)
sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(params=["file", "new", "folder", "link", "x" * 255])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something to claim: a file, one that is not there yet, a folder, a link, a file with a long name."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/later")
    return tmp_path / request.param


def test_one_claim_at_a_time(target: Path) -> None:
    before = sorted(target.parent.rglob("*"))
    with claim(target) as held:
        assert held.exclusive
        for _ in range(2):
            with pytest.raises(InUse, match=f"{target} is being written by another session or run of this process; stop it"):
                claim(target)
    assert sorted(target.parent.rglob("*")) == before
    held.release()  # once more does nothing
    claim(target).release()


def test_all_names_of_a_file_are_one_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").symlink_to("folder/b")
    (tmp_path / "folder").mkdir()
    (tmp_path / "same").symlink_to("folder")
    monkeypatch.chdir(tmp_path)
    with claim("a"):
        for name in ("folder/b", "same/b", "./folder/../a"):
            with pytest.raises(InUse):
                claim(name)
    with claim("folder"), pytest.raises(InUse):
        claim("same/")
    with claim("a"), claim("folder"), claim("c"):  # a file and the folder that it is in are two things
        pass


def test_a_killed_process_claims_nothing(target: Path) -> None:
    with running(HOLDER, target) as process:
        with pytest.raises(InUse, match=f"is being written by process {process.pid};"):
            claim(target)
        process.kill()
        process.wait()
        with claim(target):  # though its child goes on, and the lock file is there
            pass


def test_a_claim_ends_with_its_object_and_with_the_program(tmp_path: Path) -> None:
    held = claim(tmp_path / "a")
    del held
    claim(tmp_path / "a").release()
    program = "from siltstone.io.lock import claim; held = claim(sys.argv[1]); print(os.listdir(os.path.dirname(sys.argv[1])))"
    out = subprocess.run(command(program, tmp_path / "a"), capture_output=True, text=True, check=True)
    assert out.stdout == "['.a.lock']\n"
    assert names(tmp_path) == []


def test_a_child_that_ends_leaves_the_parents_claim(tmp_path: Path) -> None:
    program = """
from siltstone.io.lock import claim
held = claim(sys.argv[1])
child = os.fork()
if not child:
    held.release()
    sys.exit()
os.waitpid(child, 0)
try:
    claim(sys.argv[1])
except OSError as error:
    print(type(error).__name__, os.path.exists(held._lock))
"""
    out = subprocess.run(command(program, tmp_path / "a"), capture_output=True, text=True, check=True)
    assert out.stdout == "InUse True\n"


def test_many_claims_of_one_file(tmp_path: Path) -> None:
    """Never two at once, whatever the order in which lock files are made, locked and removed."""
    inside, most, got = [0], [0], [0]

    def work() -> None:
        while got[0] < 200:
            try:
                with claim(tmp_path / "a"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    got[0] += 1
                    inside[0] -= 1
            except InUse:
                pass

    at_once(*[work] * 4)
    assert most == [1] and names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "folder cannot be written"), (errno.EROFS, "read-only"), (errno.ENOSPC, "disk is full")]
)
@pytest.mark.parametrize("call", ["open", "truncate", "write"])
def test_folders_that_take_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, call: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(system, call, refuse)
        with pytest.raises(StorageError, match=words):
            claim(tmp_path / "a")
    assert names(tmp_path) == []
    with pytest.raises(StorageError, match="folder does not exist"):
        claim(tmp_path / "missing" / "a")


def test_the_lock_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / ".a.lock").write_bytes(b"")
    monkeypatch.setattr(system, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot claim .*a: .*\.a\.lock belongs to another user; remove it"):
        claim(tmp_path / "a")


def test_filesystems_without_locks_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(_: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(system, "lock", lock)
    with claim(tmp_path / "a") as held:
        assert not held.exclusive
        claim(tmp_path / "a").release()
    assert names(tmp_path) == []


def put(path: Path, data: bytes, **keys: object) -> object:
    with atomic_file(path, **keys) as file:  # type: ignore[arg-type]
        file.write(data)
    return file.stamp


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced": lambda path: write_bytes(path, b"other"),
    "replaced by the same": lambda path: write_bytes(path, b"first"),
    "written into": lambda path: path.write_bytes(b"other"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["a", "link"])
def test_what_another_writer_replaced_stays(tmp_path: Path, change: str, name: str) -> None:
    (tmp_path / "link").symlink_to("a")
    path = tmp_path / name
    first = put(path, b"first")
    assert first == stamp(path) == stamp(tmp_path / "a")
    CHANGES[change](tmp_path / "a")
    there = path.read_bytes()
    with pytest.raises(FileChanged, match=f"cannot write {path}: another writer replaced it since it was read"):
        put(path, b"mine", expected=first)
    assert path.read_bytes() == there and names(tmp_path) == ["a", "link"]


def test_saves_in_a_row_expect_each_other(tmp_path: Path) -> None:
    found = put(tmp_path / "a", b"0", expected=ABSENT)
    for number in range(1, 4):
        found = put(tmp_path / "a", b"%d" % number, expected=found)
        assert found == stamp(tmp_path / "a")
    with open(tmp_path / "a", "rb") as file:
        assert stamp(file.fileno()) == found
    (tmp_path / "a").chmod(0o600)  # neither permissions nor links are content
    os.link(tmp_path / "a", tmp_path / "backup")
    found = put(tmp_path / "a", b"4", expected=found)
    (tmp_path / "a").unlink()  # nothing of anyone is lost
    put(tmp_path / "a", b"5", expected=found)
    assert (tmp_path / "a").read_bytes() == b"5" and names(tmp_path) == ["a", "backup"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_must_be_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(system, "link", link)
    assert stamp(tmp_path / "a") == ABSENT
    put(tmp_path / "a", b"one", expected=ABSENT)
    with pytest.raises(FileChanged):
        put(tmp_path / "a", b"two", expected=ABSENT)
    assert (tmp_path / "a").read_bytes() == b"one" and names(tmp_path) == ["a"]


def test_of_two_writers_that_expect_the_same_one_succeeds(tmp_path: Path) -> None:
    path, results = tmp_path / "a", []
    for _ in range(20):
        before, ready = stamp(path), threading.Barrier(3)

        def write(number: int, before: object = before, ready: threading.Barrier = ready) -> None:
            try:
                with atomic_file(path, before) as file:  # type: ignore[arg-type]
                    file.write(bytes([number]) * 1000)
                    ready.wait()
                results.append(number)
            except FileChanged:
                results.append(None)

        at_once(*(partial(write, number) for number in range(3)))
        assert sum(result is not None for result in results[-3:]) == 1
        (winner,) = [result for result in results[-3:] if result is not None]
        assert path.read_bytes() == bytes([winner]) * 1000
    assert names(tmp_path) == ["a"]


def test_a_lock_for_other_ends_delays_a_save_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `flock a.silt siltstone stream --session a.silt`."""
    from siltstone.io import swap

    monkeypatch.setattr(swap, "_PATIENCE", 0.05)
    before = put(tmp_path / "a", b"old")
    with open(tmp_path / "a", "rb") as other:
        system.lock(other.fileno())
        put(tmp_path / "a", b"new", expected=before)
    assert (tmp_path / "a").read_bytes() == b"new"
