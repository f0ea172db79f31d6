"""Opening of untrusted files: only regular files, and every failure is an OSError with a plain reason."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, SiltstoneError

_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "it is a folder"),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe, not a regular file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, not a regular file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, not a regular file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, not a regular file"),
)


def given_path(path: str | os.PathLike[str], what: str = "file") -> Path:
    """`path` as a Path. Raises InputError for other types, such as None, bytes or the number of an open file."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InputError(f"path={path!r:.60} must be the name of a {what}, as text or Path")
    return Path(path)


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, open for reading, and its size in bytes. Never blocks on a pipe or device.

    Raises OSError with the reason in `strerror`, also for folders, pipes, devices and invalid paths.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # a zero byte in the path
        raise OSError(errno.EINVAL, f"the path is invalid: {error}", str(path)) from None
    with open(handle, "rb", buffering=0) as file:
        found = os.fstat(handle)
        for is_kind, number, reason in _KINDS:
            if is_kind(found.st_mode):
                raise OSError(number, reason, str(path))
        yield file, found.st_size  # type: ignore[misc]


def read_limited(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError, also for a larger file."""
    with open_regular(path) as (file, size):
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes; at most {most:,} are read", str(path))
        data = file.read(most + 1)
        while data and len(data) <= most and (more := file.read(most + 1 - len(data))):
            data += more
        if len(data) > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
        return data


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder; False for an invalid path."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def reason(error: Exception) -> str:
    """The reason why a file could not be read or used, in a few words."""
    return getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def errors_of(unreadable: Callable[[str], SiltstoneError], damaged: Callable[[str], SiltstoneError]) -> Iterator[None]:
    """Turns an OSError of reading a file into `unreadable(reason)`, a ValueError into `damaged(words)`."""
    try:
        yield
    except SiltstoneError:
        raise
    except OSError as error:
        raise unreadable(reason(error)) from error
    except ValueError as error:
        raise damaged(str(error)) from error
