"""Page files: what is written is read back, the pool has a limit, and a fault of the disk is an error that changes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siltstone.errors import SpillFailed
from siltstone.io import system
from siltstone.io.page_file import PageFile


def pages(n: int, first: int = 0) -> np.ndarray:
    return np.random.default_rng(first).integers(0, 256, (n, 48), np.uint8)


def test_pages_are_read_back_in_any_order_with_any_pool(tmp_path: Path) -> None:
    for pool in (1, 48, 5 * 48, 10**6):
        file = PageFile(tmp_path, 48, pool)
        want = np.concatenate([pages(3), pages(20, 1)])
        assert file.add(pages(3)).tolist() == [0, 1, 2] and file.add(pages(20, 1)).tolist() == list(range(3, 23))
        for order in ([22, 0, 0, 5], list(range(23)), [7], list(range(22, -1, -1))):
            assert (file.read(order) == want[order]).all() and (file.read(order, keep=False) == want[order]).all()
            assert file.resident <= max(pool, 48)
        assert file.read([]).shape == (0, 48)


def test_the_file_has_no_name_and_ends_with_its_owner(tmp_path: Path) -> None:
    file = PageFile(tmp_path, 48)
    file.add(pages(2))
    handle = file._handle
    assert os.listdir(tmp_path) == [] and os.fstat(handle).st_size == 96
    del file
    with pytest.raises(OSError):
        os.fstat(handle)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_page_that_cannot_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    file = PageFile(tmp_path, 48)
    file.add(pages(2))
    whole, left = system.write_at, [30]

    def part(handle: int, data: Any, offset: int) -> int:
        if not left[0]:
            raise OSError(code, os.strerror(code))
        size = min(left[0], len(data))
        left[0] -= size
        return whole(handle, data[:size], offset)

    monkeypatch.setattr(system, "write_at", part)
    with pytest.raises(SpillFailed, match="cannot be written .*; the session is as it was: free space there"):
        file.add(pages(3, 1))
    assert file.count == 2
    left[0] = 10**6
    assert file.add(pages(3, 2)).tolist() == [2, 3, 4]
    assert (file.read(range(5)) == np.concatenate([pages(2), pages(3, 2)])).all()


@pytest.mark.parametrize("fault", ["altered", "gone", "unreadable"])
def test_a_page_that_changed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    file = PageFile(tmp_path, 48, 1)
    file.add(pages(4))
    if fault == "altered":
        os.pwrite(file._handle, bytes([pages(4)[2, 5] ^ 1]), 2 * 48 + 5)
    elif fault == "gone":
        os.ftruncate(file._handle, 2 * 48 + 7)
    else:

        def broken(handle: int, into: memoryview, offset: int) -> int:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(system, "read_at", broken)
    said = {"altered": "checksum", "gone": "the file ends 41 bytes before", "unreadable": "input/output error|broken"}[fault]
    with pytest.raises(SpillFailed, match=f"page 2 in .* cannot be read back: .*({said})(?i:.*)"):
        file.read([2])
    if fault != "unreadable":
        assert (file.read([1]) == pages(4)[1:2]).all()


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_folder_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("x")
    with pytest.raises(SpillFailed, match="no page file can be made in .*place"):
        PageFile(place, 48)


def test_a_forked_process_writes_no_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PageFile(tmp_path, 48)
    file.add(pages(1))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(SpillFailed, match="was forked from it; load the session"):
        file.add(pages(1))
    assert (file.read([0]) == pages(1)).all()
