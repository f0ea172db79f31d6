"""Resolves a path: the file behind its links, whether it can be replaced, and a stamp that identifies its content."""

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

_LINKS = 40  # maximum links that are followed, as in Linux
_LONGEST = 100  # maximum bytes of a name inside the name of a lock or an unfinished file; filesystems allow 143 to 255 in all
_KINDS = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class Stamp(NamedTuple):
    """Identifies the content of a file: another file, or another write, gives another stamp.

    A change of name, permissions or owner does not change the stamp. A missing file has the stamp ABSENT.
    """

    device: int
    inode: int
    size: int
    modified: int


ABSENT = Stamp(0, 0, 0, 0)


def stamp(path: str | os.PathLike[str] | int) -> Stamp:
    """The stamp of a file (links are followed) or of an open descriptor. Raises StorageError if it cannot be examined."""
    try:
        return stamp_of(os.stat(path))
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        raise StorageError(f"cannot examine {path}: {error.strerror or error}; check the path") from error


def stamp_of(found: os.stat_result) -> Stamp:
    """The stamp of a stat result."""
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def file_of(found: os.stat_result) -> tuple[int, int]:
    """The identity of a file, independent of its names and its content."""
    return found.st_dev, found.st_ino


def short(name: str) -> str:
    """`name`; if it is too long to be extended, its beginning and a hash of it."""
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST:
        return name
    return raw[: _LONGEST - 17].decode(errors="ignore") + "~" + hashlib.sha256(raw).hexdigest()[:16]


@dataclass(frozen=True)
class Place:
    """A resolved path for writing.

    asked   the path that was given
    path    the file itself: `asked`, or the target of its symbolic links (which may not exist yet)
    found   stat result of a regular file, a character device or a pipe; None: nothing exists there
    handle  the descriptor if `asked` names one, as /dev/stdout does
    """

    asked: Path
    path: Path
    found: os.stat_result | None
    handle: int | None = None

    @property
    def streams(self) -> bool:
        """Whether it is written directly and not replaced: a character device, a pipe, an open descriptor."""
        return self.handle is not None or (self.found is not None and not stat.S_ISREG(self.found.st_mode))


def find(path: str | os.PathLike[str]) -> Place:
    """Resolves `path`.

    Raises StorageError if it cannot be written (a folder, a socket, a disk, an empty name, a loop of links), and InputError if
    it is not a path.
    """
    asked = named(path)
    with storage_errors(asked):
        handle, at = _follow(asked)
        found = _examine(asked, at) if handle is None else None
    return Place(asked, at, found, handle)


def find_file(path: str | os.PathLike[str]) -> Place:
    """As `find`, for files that must be readable again: StorageError also for devices and pipes."""
    place = find(path)
    if place.streams:
        what = "an open stream" if place.found is None else _KINDS[stat.S_IFMT(place.found.st_mode)]
        raise StorageError(f"cannot write {path}: it is {what}, and the saved file must be readable again; choose a file")
    return place


def _examine(asked: Path, path: Path) -> os.stat_result | None:
    """The stat result of `path` for Place.found. Raises OSError for a folder, StorageError for a socket or a disk."""
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
    """`path`, if it is a valid name of a file (or a folder). Raises StorageError, and InputError if it is not a path."""
    found = given_path(path, "folder" if folder else "file")
    text = os.fspath(path)
    wrong = "is empty" if not text else "contains a zero byte" if "\0" in text else ""
    if text.endswith(os.sep) and not folder:
        wrong = "ends like the name of a folder"
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        wrong = "contains characters that file names here cannot contain"
    if wrong:
        raise StorageError(f"cannot write {text!r}: the path {wrong}: give the name of a {'folder' if folder else 'file'}")
    return found


def _follow(path: Path) -> tuple[int | None, Path]:
    """The end of a chain of symbolic links, and a descriptor of this process if the chain leads to one."""
    for _ in range(_LINKS):
        handle = _handle(path)
        if handle is not None:
            return handle, path
        try:
            path = path.parent / os.readlink(path)
        except FileNotFoundError:
            return None, path
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: not a link
                raise
            return None, path
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _handle(path: Path) -> int | None:
    """The descriptor of a path such as /proc/self/fd/1 (1), which looks like a link but is the open file itself."""
    if path.parts[1:2] not in (("proc",), ("dev",)) or not path.name.isdecimal():
        return None
    return int(path.name) if os.path.realpath(path.parent) == f"/proc/{os.getpid()}/fd" else None
