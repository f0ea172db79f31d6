"""Replaces a file only if it is the expected one, so that no writer overwrites the work of another."""

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

_PATIENCE = 2.0  # maximum seconds to wait until another writer has renamed its file
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def replace_expected(spare: Path, target: Path, expected: Stamp, asked: Path) -> None:
    """Renames `spare` to `target` if `target` has the stamp `expected` or does not exist.

    asked   the user's path of `target`
    Of two writers that expect the same file, only one succeeds. Raises FileChanged for another file, OSError.
    """
    if _compare(target, expected, asked) == ABSENT:
        _create(spare, target, expected, asked)
        return
    try:
        handle = system.open(target, os.O_RDONLY | system.NO_LINK)
    except PermissionError:  # it can be replaced, but not read
        system.replace(spare, target)
        return
    try:
        # The second of two writers waits for the first, but only for some time: another program may hold the lock.
        until = time.monotonic() + _PATIENCE
        while try_lock(handle) is False and time.monotonic() < until:
            time.sleep(0.001)
        _compare(target, expected, asked)
        system.replace(spare, target)
    finally:
        with contextlib.suppress(OSError):  # no data was written with this descriptor
            system.close(handle)


def _create(spare: Path, target: Path, expected: Stamp, asked: Path) -> None:
    """Links `spare` to `target`, which must not exist: a rename would also replace a file that another writer has just made."""
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
    with contextlib.suppress(OSError):  # after an error, the next writer removes the first name, that of an unfinished file
        system.unlink(spare)


def _compare(target: Path, expected: Stamp, asked: Path) -> Stamp:
    """The stamp of `target`: `expected` or ABSENT. Raises FileChanged for any other."""
    found = stamp(target)
    if found not in (expected, ABSENT):
        raise _changed(asked)
    return found


def _changed(asked: Path) -> FileChanged:
    return FileChanged(
        f"cannot write {asked}: another writer replaced it since it was read, and its content would be lost; "
        "choose another file, or read it again"
    )
