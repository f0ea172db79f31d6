"""What a path may name: links, devices, pipes, folders, long and impossible names."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from siltstone.errors import InputError, SiltstoneError, StorageError
from siltstone.io import atomic_file, claim, write_bytes, write_json, write_tensors, write_text
from siltstone.io.atomic import check_place, make_folder

from .processes import command


def save(path: Path | str, data: bytes = b"new") -> None:
    """As session files and weights are saved."""
    with atomic_file(path) as file:
        file.write(data)


WRITERS: list[Callable[[Path], None]] = [
    save,
    lambda path: write_bytes(path, b"new"),
    lambda path: write_text(path, "new"),
    lambda path: write_json(path, "new"),
    lambda path: write_tensors(path, {"new": torch.zeros(1)}),
]
READ_BACK = [WRITERS[0], WRITERS[4]]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with links of every kind that lead to `store/real`."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "real").write_bytes(b"old")
    (tmp_path / "relative").symlink_to("store/real")
    (tmp_path / "absolute").symlink_to(tmp_path / "store" / "real")
    (tmp_path / "chain").symlink_to("relative")
    (tmp_path / "folder").symlink_to("store")
    (tmp_path / "store" / "up").symlink_to("../absolute")
    return tmp_path


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("link", ["relative", "absolute", "chain", "folder/real", "folder/up", "store/../chain"])
def test_links_stay_and_what_they_lead_to_is_replaced(place: Path, link: str, write: Callable[[Path], None]) -> None:
    before = names(place), names(place / "store")
    write(place / link)
    assert b"new" in (place / "store" / "real").read_bytes()
    assert (names(place), names(place / "store")) == before
    assert all((place / name).is_symlink() for name in ("relative", "absolute", "chain", "folder", "store/up"))


def test_a_link_to_nothing_gets_its_file(place: Path) -> None:
    (place / "dangling").symlink_to("store/later")
    save(place / "dangling")
    assert (place / "store" / "later").read_bytes() == b"new" and (place / "dangling").is_symlink()
    (place / "nowhere").symlink_to("missing/later")
    with pytest.raises(StorageError, match="folder does not exist"):
        save(place / "nowhere")


def test_links_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for refused in (save, check_place, claim, *WRITERS):
        with pytest.raises(StorageError, match="links form a loop"):
            refused(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o755, 0o444])
@pytest.mark.parametrize("write", WRITERS)
def test_permissions_stay(tmp_path: Path, mode: int, write: Callable[[Path], None]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_have_what_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save(tmp_path / "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask
    finally:
        os.umask(before)


def test_private_text_is_private_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with atomic_file(path) as file:
        file.write(b"secret")
        file.flush()
        (unfinished,) = tmp_path.glob(".*.tmp")
        assert stat.S_IMODE(unfinished.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_permissions_that_change_while_the_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        path.chmod(0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_other_hard_links_keep_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    os.link(tmp_path / "a", tmp_path / "backup")
    save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new" and (tmp_path / "backup").read_bytes() == b"old"


def test_attributes_of_the_user_stay(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    try:
        os.setxattr(path, "user.origin", b"here")
    except OSError:  # this filesystem has none; the file is written all the same
        assert save(path) is None
        return
    save(path)
    assert os.getxattr(path, "user.origin") == b"here"


def test_what_is_looked_at_goes_to_devices_and_pipes(tmp_path: Path) -> None:
    for write in WRITERS[1:4]:
        write(Path("/dev/null"))
    check_place("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda got=got: got.append(pipe.read_bytes()))
        reader.start()
        write_text(tmp_path / name, "a report")
        reader.join(10)
        assert got == [b"a report"]
    assert stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["link", "pipe"]


@pytest.mark.parametrize("write", READ_BACK)
def test_what_is_read_again_goes_to_files_alone(tmp_path: Path, write: Callable[[Path], None]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/null"), "a device"), (tmp_path / "null", "a device")):
        with pytest.raises(StorageError, match=f"it is {kind}.*choose a file"):
            write(path)
        with pytest.raises(StorageError, match=kind):
            check_place(path, streams=False)
        with pytest.raises(StorageError, match=kind):
            claim(path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and names(tmp_path) == ["null", "pipe"]


@pytest.mark.parametrize("refused", [*WRITERS, check_place, claim])
def test_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[Path], None]) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(StorageError, match="a socket"):
            refused(Path("socket"))
    assert stat.S_ISSOCK(os.stat("socket").st_mode)


def test_a_full_device_says_so() -> None:
    with pytest.raises(StorageError, match="disk is full"):
        write_text(Path("/dev/full"), "x")


def test_a_report_to_standard_output(tmp_path: Path) -> None:
    """Into a file that was opened by the shell: what was printed before and after stays in it."""
    program = """
from siltstone.io.atomic import write_text
for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
    print("to", name)
    write_text(name, "report\\n")
print("end")
"""
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(command(program), stdout=out, check=False)
    said = (tmp_path / "out").read_text()
    assert done.returncode == 0
    assert said == "to /dev/stdout\nreport\nto /dev/fd/1\nreport\nto /proc/self/fd/1\nreport\nend\n"


NAMES = {
    "": "the path is empty",
    "a\0b": "contains a zero byte",
    "folder/": "ends like the name of a folder",
    "new/": "ends like the name of a folder",
    "\ud800": "file names here cannot contain",
    "folder": "this is a folder",
    ".": "this is a folder",
    "..": "this is a folder",
    "x" * 256: "too long: choose a shorter one",
    "é" * 128: "too long: choose a shorter one",
    "/".join(["x" * 200] * 30): "does not exist|too long",
    "file/under": "a file, not a folder",
    "missing/a": "folder does not exist",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("refused", [save, lambda p: write_text(p, ""), check_place, claim])
def test_names_that_no_file_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, refused: Callable[[str], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_bytes(b"")
    if refused is claim and name in ("folder", "folder/", ".", ".."):
        claim(name).release()  # folders can be claimed
    else:
        with pytest.raises(StorageError, match=NAMES[name]):
            refused(name)
    assert names(tmp_path) == ["file", "folder"] and not names(tmp_path / "folder")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "日" * 85, "x" * 101 + ".silt", "\udcff" * 200, "a\nb", " ", "-"])
def test_long_and_odd_names_are_written(tmp_path: Path, name: str) -> None:
    for data in (b"one", b"two"):
        save(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data
    with claim(tmp_path / name), pytest.raises(StorageError, match="being written"):
        claim(tmp_path / name)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a"]])
@pytest.mark.parametrize("refused", [save, check_place, claim, make_folder])
def test_what_is_no_path(value: object, refused: Callable[..., object]) -> None:
    with pytest.raises(InputError, match="path=.* must be the name of a f"):
        refused(value)


def test_folders_with_impossible_names(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("a\0b", "\ud800", "x" * 256, "file", "file/a", "dangling"):
        with pytest.raises(SiltstoneError, match="cannot write"):
            make_folder(f"{tmp_path}/{name}")
    with pytest.raises(StorageError, match="path is empty"):
        make_folder("")
    assert make_folder(f"{tmp_path}/a/b/").is_dir()


def test_text_that_utf_8_cannot_hold(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "half \udcff")
    assert (tmp_path / "a").read_text("utf-8") == "half \\udcff"


def test_check_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("later")
    (tmp_path / "old").write_bytes(b"old")
    for name in ("new", "link", "old"):
        check_place(tmp_path / name)
    assert names(tmp_path) == ["link", "old"] and (tmp_path / "old").read_bytes() == b"old"
