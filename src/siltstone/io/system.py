"""The system calls by which this package changes the disk, and no others.

Everything in `siltstone.io` that creates, writes, names, locks or removes a file calls these functions through this
module, so that a test can make any one of them fail. Each does one system call, and raises OSError where it fails.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without flock
    fcntl = None

_ALWAYS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)


def open(path: Path, flags: int, mode: int = 0o600) -> int:
    """A file descriptor, which no program started later inherits."""
    return os.open(path, flags | _ALWAYS, mode)


def write(handle: int, data: bytes | memoryview) -> int:
    """How many bytes were written; fewer than given is no error."""
    return os.write(handle, data)


def truncate(handle: int) -> None:
    """Makes the file empty."""
    os.ftruncate(handle, 0)


def fsync(handle: int) -> None:
    """Returns when the disk has the content of the file, or the names in the folder."""
    os.fsync(handle)


def close(handle: int) -> None:
    """The descriptor is gone afterwards, also when this fails."""
    os.close(handle)


def replace(source: Path, target: Path) -> None:
    """Gives `source` the name `target`, in place of what had it."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Gives `source` the second name `target`; FileExistsError where the name is taken."""
    os.link(source, target, follow_symlinks=False)


def unlink(path: Path) -> None:
    """Removes a name."""
    os.unlink(path)


def mkdir(path: Path) -> None:
    """Creates one folder."""
    os.mkdir(path)


def rmdir(path: Path) -> None:
    """Removes an empty folder."""
    os.rmdir(path)


def chmod(handle: int, mode: int) -> None:
    """Sets the permissions of an open file."""
    if hasattr(os, "fchmod"):
        os.fchmod(handle, mode)


def chown(handle: int, user: int, group: int) -> None:
    """Sets owner and group of an open file; -1 leaves one as it is."""
    if hasattr(os, "fchown"):
        os.fchown(handle, user, group)


def set_attribute(handle: int, name: str, value: bytes) -> None:
    """Sets an extended attribute of an open file."""
    os.setxattr(handle, name, value)


def remove_attribute(handle: int, name: str) -> None:
    """Removes an extended attribute of an open file."""
    os.removexattr(handle, name)


def lock(handle: int) -> None:
    """Takes the exclusive lock of the open file at once; BlockingIOError where another open file has it."""
    if fcntl is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
