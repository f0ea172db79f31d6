"""Folders that outlast a power cut: a name is on the disk when the folder that has it was flushed."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from . import system
from .place import named
from .refusal import storage_errors

_CANNOT = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # systems and filesystems that flush no folders


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Creates the folder `path` and its parents where they are not there, so that they outlast a power cut.

    Raises StorageError; a folder that could not be made to last is removed again.
    """
    whole = named(path, folder=True)
    with storage_errors(whole):
        at, missing = whole, []
        while not at.exists():
            missing.append(at)
            at = at.parent
        if not at.is_dir():
            number = errno.ENOTDIR if missing else errno.EEXIST
            raise OSError(number, os.strerror(number))
        for folder in reversed(missing):
            _make(folder)
    return Path(path)


def _make(folder: Path) -> None:
    try:
        system.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return  # another process was quicker
    try:
        sync_folder(folder.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            system.rmdir(folder)
        raise


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` last through a power cut, where the system can. Raises OSError."""
    handle = open_folder(folder)
    if handle is not None:
        try:
            sync(handle)
        finally:
            close_folder(handle)


def open_folder(folder: Path) -> int | None:
    """A descriptor for `sync`; None where folders cannot be opened (Windows) or this one may not be read. Raises OSError."""
    try:
        return system.open(folder, os.O_RDONLY)
    except PermissionError:
        return None


def sync(handle: int) -> None:
    """Makes the names in an open folder last through a power cut, where the system can. Raises OSError."""
    try:
        system.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def close_folder(handle: int) -> None:
    """Closes a folder; nothing was written through it that could be lost."""
    with contextlib.suppress(OSError):
        system.close(handle)
