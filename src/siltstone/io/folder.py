"""Folders that survive a power failure: a name is on the disk after its parent folder was flushed."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from . import system
from .place import named
from .refusal import storage_errors

_CANNOT = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # systems and filesystems that cannot flush folders


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Creates the folder `path` and its missing parents, and flushes them, so that they survive a power failure.

    Raises StorageError; a folder that could not be flushed is removed again.
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


def remove_file(path: Path) -> None:
    """Removes a file, if it is there, so that it stays removed after a power failure. Raises StorageError."""
    with storage_errors(path):
        with contextlib.suppress(FileNotFoundError):
            system.unlink(path)
        sync_folder(path.parent)


def _make(folder: Path) -> None:
    try:
        system.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return  # another process has created it in between
    try:
        sync_folder(folder.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            system.rmdir(folder)
        raise


def sync_folder(folder: Path) -> None:
    """Flushes the names in `folder` to disk, if the system can. Raises OSError."""
    handle = open_folder(folder)
    if handle is not None:
        try:
            sync(handle)
        finally:
            close_folder(handle)


def open_folder(folder: Path) -> int | None:
    """A descriptor for `sync`; None if folders cannot be opened (Windows) or this one is not readable. Raises OSError."""
    try:
        return system.open(folder, os.O_RDONLY)
    except PermissionError:
        return None


def sync(handle: int) -> None:
    """Flushes the names in an open folder to disk, if the system can. Raises OSError."""
    try:
        system.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def close_folder(handle: int) -> None:
    """Closes a folder; errors are ignored, as no data was written with this descriptor."""
    with contextlib.suppress(OSError):
        system.close(handle)
