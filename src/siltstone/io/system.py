"""All system calls of this package that change the disk.

All code in `siltstone.io` that creates, writes, renames, locks or removes a file calls the functions of this module, so that a
test can make any of them fail. Each function makes one system call and raises OSError if it fails.
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
    """A file descriptor that child programs do not inherit."""
    return os.open(path, flags | _ALWAYS, mode)


def write(handle: int, data: bytes | memoryview) -> int:
    """Writes and returns the number of bytes written; fewer than given is not an error."""
    return os.write(handle, data)


def write_at(handle: int, data: bytes | memoryview, offset: int) -> int:
    """Writes at an offset and returns the number of bytes written; fewer than given is not an error."""
    return os.pwrite(handle, data, offset)


def read_at(handle: int, into: memoryview, offset: int) -> int:
    """Fills a buffer from an offset and returns the number of bytes read: fewer than it has at the end of the file."""
    done = 0
    while done < len(into):
        more = os.preadv(handle, [into[done:]], offset + done)
        if not more:
            break
        done += more
    return done


def truncate(handle: int) -> None:
    """Makes the file empty."""
    os.ftruncate(handle, 0)


def allocate(handle: int, size: int) -> None:
    """Makes the file `size` bytes long, on the disk if the system can promise that, with zeros behind its end."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.ftruncate(handle, size)


def fsync(handle: int) -> None:
    """Flushes the content of a file, or the names in a folder, to disk."""
    os.fsync(handle)


def close(handle: int) -> None:
    """Closes a descriptor; it is invalid afterwards, also after an error."""
    os.close(handle)


def replace(source: Path, target: Path) -> None:
    """Renames `source` to `target` and replaces a file with that name."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Gives `source` the second name `target`; FileExistsError if the name exists."""
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
    """Sets owner and group of an open file; -1: no change."""
    if hasattr(os, "fchown"):
        os.fchown(handle, user, group)


def set_attribute(handle: int, name: str, value: bytes) -> None:
    """Sets an extended attribute of an open file."""
    os.setxattr(handle, name, value)


def remove_attribute(handle: int, name: str) -> None:
    """Removes an extended attribute of an open file."""
    os.removexattr(handle, name)


def lock(handle: int) -> None:
    """Takes the exclusive lock of an open file without waiting; BlockingIOError if another open file has it."""
    if fcntl is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
