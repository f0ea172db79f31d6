"""What a path names: the file behind its links, whether it can be replaced, and how to know its content again."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import StorageError
from .refusal import storage_errors
from .regular import given_path

_LINKS = 40  # as many as Linux follows
_LONGEST = 100  # bytes of a name that the name of a lock or an unfinished file repeats; file systems allow 143 to 255 in all
_KINDS = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class Stamp(NamedTuple):
    """By what the content of a file is known again: another file, or another write, gives another stamp.

    A change of name, permissions or owner leaves the stamp as it is. A file that is not there has the stamp ABSENT.
    """

    device: int
    inode: int
    size: int
    modified: int


ABSENT = Stamp(0, 0, 0, 0)


def stamp(path: str | os.PathLike[str] | int) -> Stamp:
    """The stamp of a file (behind its links) or of an open descriptor. Raises StorageError where it cannot be examined."""
    try:
        return stamp_of(os.stat(path))
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        raise StorageError(f"cannot examine {path}: {error.strerror or error}; check the path") from error


def stamp_of(found: os.stat_result) -> Stamp:
    """The stamp that a stat result gives."""
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def file_of(found: os.stat_result) -> tuple[int, int]:
    """Which file it is, whatever its names and its content."""
    return found.st_dev, found.st_ino


def short(name: str) -> str:
    """`name`, or its beginning and a hash of it where it is so long that little could be added to it."""
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST:
        return name
    return raw[: _LONGEST - 17].decode(errors="ignore") + "~" + hashlib.sha256(raw).hexdigest()[:16]


@dataclass(frozen=True)
class Place:
    """Where something is to be written.

    asked   the path as it was given
    path    the file itself: `asked`, or what its symbolic links lead to (which need not be there yet)
    found   what is there: a regular file, a character device or a pipe; None: nothing yet
    handle  the descriptor that `asked` names, as /dev/stdout does
    """

    asked: Path
    path: Path
    found: os.stat_result | None
    handle: int | None = None

    @property
    def streams(self) -> bool:
        """Whether this is written into, and not replaced: a character device, a pipe, an open descriptor."""
        return self.handle is not None or (self.found is not None and not stat.S_ISREG(self.found.st_mode))


def find(path: str | os.PathLike[str]) -> Place:
    """The place that `path` names.

    Raises StorageError for what nothing can be written to (a folder, a socket, a disk, no name, a loop of links), and
    InputError for what is no path.
    """
    asked = named(path)
    with storage_errors(asked):
        handle, at = _follow(asked)
        found = _examine(asked, at) if handle is None else None
    return Place(asked, at, found, handle)


def find_file(path: str | os.PathLike[str]) -> Place:
    """As `find`, for what is to be read again: StorageError for devices and pipes too."""
    place = find(path)
    if place.streams:
        what = "an open stream" if place.found is None else _KINDS[stat.S_IFMT(place.found.st_mode)]
        raise StorageError(f"cannot write {path}: it is {what}, and what is saved here must be readable again; choose a file")
    return place


def _examine(asked: Path, path: Path) -> os.stat_result | None:
    """What is at `path`, as Place.found. Raises OSError for a folder, StorageError for a socket or a disk."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, "a folder")
    if kind not in (stat.S_IFREG, stat.S_IFCHR, stat.S_IFIFO):
        raise StorageError(f"cannot write {asked}: it is {_KINDS.get(kind, 'a link')}, not a file; choose a file")
    return found


def named(path: str | os.PathLike[str], folder: bool = False) -> Path:
    """`path`, if a file (or a folder) can have such a name. Raises StorageError, and InputError for what is no path."""
    found = given_path(path, "folder" if folder else "file")
    text = os.fspath(path)
    wrong = "is empty" if not text else "holds a zero byte" if "\0" in text else ""
    if text.endswith(os.sep) and not folder:
        wrong = "ends as the name of a folder"
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        wrong = "holds characters that no file name here can hold"
    if wrong:
        raise StorageError(f"cannot write {text!r}: the path {wrong}: give the name of a {'folder' if folder else 'file'}")
    return found


def _follow(path: Path) -> tuple[int | None, Path]:
    """The end of a chain of symbolic links; the number of a descriptor of this process where the chain names one."""
    for _ in range(_LINKS):
        handle = _handle(path)
        if handle is not None:
            return handle, path
        try:
            path = path.parent / os.readlink(path)
        except FileNotFoundError:
            return None, path
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: no link
                raise
            return None, path
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _handle(path: Path) -> int | None:
    """1 for /proc/self/fd/1, which reads as a link but is the open file itself."""
    if path.parts[1:2] not in (("proc",), ("dev",)) or not path.name.isdecimal():
        return None
    return int(path.name) if os.path.realpath(path.parent) == f"/proc/{os.getpid()}/fd" else None
