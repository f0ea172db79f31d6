"""Replacing a file only if it is the one that is expected, so that of two writers none undoes what the other wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from ..errors import FileChanged
from . import system
from .lock import try_lock
from .place import ABSENT, Stamp, stamp

_PATIENCE = 2.0  # seconds that another writer may take to rename its file
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def replace_expected(spare: Path, target: Path, expected: Stamp, asked: Path) -> None:
    """Renames `spare` to `target` if that has the stamp `expected`, or is not there.

    asked   `target` as the user calls it
    Of two that expect the same file, one succeeds. Raises FileChanged for another file, OSError.
    """
    if _compare(target, expected, asked) == ABSENT:
        _create(spare, target, expected, asked)
        return
    try:
        handle = system.open(target, os.O_RDONLY | system.NO_LINK)
    except PermissionError:  # it may be replaced, and not read
        system.replace(spare, target)
        return
    try:
        # The second of two writers waits for the first, though not for ever: the lock might be somebody's for other ends.
        until = time.monotonic() + _PATIENCE
        while try_lock(handle) is False and time.monotonic() < until:
            time.sleep(0.001)
        _compare(target, expected, asked)
        system.replace(spare, target)
    finally:
        with contextlib.suppress(OSError):  # it was not written
            system.close(handle)


def _create(spare: Path, target: Path, expected: Stamp, asked: Path) -> None:
    """A second name for `spare` where none is: a rename would also replace what another writer has just put there."""
    try:
        system.link(spare, target)
    except FileExistsError:
        raise _changed(asked) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _compare(target, expected, asked)
        system.replace(spare, target)
        return
    with contextlib.suppress(OSError):  # the first name is that of an unfinished file, which the next writer removes
        system.unlink(spare)


def _compare(target: Path, expected: Stamp, asked: Path) -> Stamp:
    """What is there: the expected file, or none. Raises FileChanged."""
    found = stamp(target)
    if found not in (expected, ABSENT):
        raise _changed(asked)
    return found


def _changed(asked: Path) -> FileChanged:
    return FileChanged(
        f"cannot write {asked}: another writer replaced it since it was read, and what it wrote would be lost; "
        "choose another file, or read it again"
    )
