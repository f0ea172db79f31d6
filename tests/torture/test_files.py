"""Files and folders under every failure of the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from siltstone.io import ABSENT, atomic_file, claim, read_tensors, stamp, write_bytes, write_json, write_tensors, write_text
from siltstone.io.atomic import check_place, make_folder

from .injector import Action, Check, power_cuts, torture

OLD, NEW = b"old" * 7, b"new" * 70_000  # more than a buffer


def same(name: str, old: bytes | None = OLD, new: bytes = NEW) -> Check:
    """Whether the file has the new content, and not the old one (None: no file)."""

    def check(place: Path) -> bool:
        path = place / name
        found = path.read_bytes() if path.exists() else None
        assert found in (old, new)
        return found == new

    return check


def old(place: Path) -> None:
    (place / "a").write_bytes(OLD)


def linked(place: Path) -> None:
    (place / "real").write_bytes(OLD)
    (place / "a").symlink_to("real")


def nothing(place: Path) -> None:
    pass


def expecting(path: Path) -> None:
    before = stamp(path)
    with atomic_file(path, before) as file:
        file.write(NEW)


def claimed(path: Path) -> None:
    with claim(path):
        write_bytes(path, NEW)


WRITES: dict[str, Action] = {
    "write_bytes": lambda place: write_bytes(place / "a", NEW),
    "expected": lambda place: expecting(place / "a"),
    "claimed": lambda place: claimed(place / "a"),
}


@pytest.mark.parametrize("run", [torture, power_cuts])
@pytest.mark.parametrize("begin", [old, linked, nothing])
@pytest.mark.parametrize("write", WRITES)
def test_files(tmp_path: Path, write: str, begin: Action, run: Callable[..., int]) -> None:
    check = same("a", None if begin is nothing else OLD)
    most = None if write == "write_bytes" and begin is old else 20
    assert run(WRITES[write], check, tmp_path, begin, most=most) >= 20


def test_tensors(tmp_path: Path) -> None:
    def write(place: Path) -> None:
        write_tensors(place / "a", {"x": torch.ones(20_000), "y": torch.zeros(3)}, {"of": "this"})

    def check(place: Path) -> bool:
        tensors, about = read_tensors(place / "a")
        assert about == {"of": "this"} and tensors["x"].shape in ((5,), (20_000,))
        return len(tensors["x"]) > 5

    def begin(place: Path) -> None:
        write_tensors(place / "a", {"x": torch.ones(5)}, {"of": "this"})

    assert torture(write, check, tmp_path / "faults", begin, most=20) >= 20
    assert power_cuts(write, check, tmp_path / "cuts", begin, most=20) >= 20


def test_json_and_text(tmp_path: Path) -> None:
    new = b'{\n "k": "\xc3\xbc"\n}\n'
    assert torture(lambda place: write_json(place / "a", {"k": "ü"}), same("a", OLD, new), tmp_path / "json", old, most=15) >= 15
    assert torture(lambda place: write_text(place / "a", "ü"), same("a", None, "ü".encode()), tmp_path / "text", most=15) >= 15


def test_folders(tmp_path: Path) -> None:
    def check(place: Path) -> bool:
        return (place / "a" / "b" / "c").is_dir()

    def make(place: Path) -> None:
        make_folder(place / "a" / "b" / "c")

    assert torture(make, check, tmp_path / "faults", most=60) >= 60
    assert power_cuts(make, check, tmp_path / "cuts", most=40) >= 40


def test_trying_a_place_changes_nothing(tmp_path: Path) -> None:
    def check(place: Path) -> bool:
        return (place / "a").read_bytes() == OLD

    assert torture(lambda place: check_place(place / "a"), check, tmp_path, old, single=False, most=20) >= 20


def test_a_file_that_must_be_new(tmp_path: Path) -> None:
    def write(place: Path) -> None:
        path = place / "a"
        with atomic_file(path, ABSENT if not path.exists() else stamp(path)) as file:
            file.write(NEW)

    assert torture(write, same("a", None), tmp_path / "faults", most=20) >= 20
