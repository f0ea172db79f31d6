"""Unfinished files: their names, locks that show whether their writers are alive, and removal of those of dead writers.

The unfinished file for NAME is `.NAME.HEX.tmp` in the same folder, with twelve hexadecimal digits. Its writer holds a lock on it
(flock) until it is complete. The system releases the lock when the writer ends, so that a leftover file is not locked. If the
filesystem has no locks, a file that is less than a day old is taken as being written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import secrets
import stat
import time
from pathlib import Path

from . import system
from .lock import try_lock
from .place import file_of, short

_PATTERN = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp", re.DOTALL)
_LOOKED_AT = 250  # names of a folder that a writer searches for leftover files: a tenth of a millisecond
_DAY = 86400.0  # seconds


def _digits(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


class Spare:
    """An empty unfinished file in the folder of `target`, open for writing and locked.

    target      the final file; its folder must exist
    mode        permissions of the new file, restricted by the umask
    Unfinished files of dead writers for the same target are removed first. Raises OSError.

    path        its name
    handle      its descriptor
    locked      False if the filesystem has no locks
    """

    def __init__(self, target: Path, mode: int) -> None:
        clear(target)
        stem, flags = short(target.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | system.NO_LINK
        # The first name is always the same, so that the leftover file of a single writer is found in a folder of any size.
        for digits in itertools.chain([_digits(target.name)], (secrets.token_hex(6) for _ in range(20))):
            self.path = target.parent / f".{stem}.{digits}.tmp"
            try:
                self.handle = system.open(self.path, flags, mode)
            except FileExistsError:
                continue
            self._open = True
            try:
                self._file = file_of(os.fstat(self.handle))
                held = try_lock(self.handle)
                gone = os.fstat(self.handle).st_nlink == 0
            except BaseException:
                self.discard()
                raise
            if held is not False and not gone:
                self.locked = held is True
                return
            self.close()  # another process, which removes files of dead writers, locked this file first and removes it
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def close(self) -> None:
        """Closes the file and releases its lock; further calls do nothing."""
        if self._open:
            self._open = False
            system.close(self.handle)

    def discard(self) -> None:
        """Removes the file if it still has its first name, and closes it. After an error, the next writer removes it."""
        try:
            with contextlib.suppress(OSError):
                if file_of(os.lstat(self.path)) == self._file:
                    system.unlink(self.path)
        finally:
            with contextlib.suppress(OSError):
                self.close()


def clear(target: Path) -> None:
    """Removes unfinished files of dead writers for `target`: all of them in a small folder, in a large one at least that of a
    single writer."""
    stem = short(target.name)
    names = {f".{stem}.{_digits(target.name)}.tmp"}
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in itertools.islice(entries, _LOOKED_AT):
            found = _PATTERN.fullmatch(entry.name)
            if found and found[1] == stem:
                names.add(entry.name)
    for name in names:
        _bury(target.parent / name)


def sweep(folder: str | Path) -> int:
    """Removes the unfinished files in `folder` whose writers are dead; returns their number.

    Other files, links, files that are being written, and files that cannot be removed are kept.
    """
    return sum(_bury(path) for path in unfinished(folder))


def unfinished(folder: str | Path) -> list[Path]:
    """Files in `folder` with the names of unfinished files, whether or not their writers are alive."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [Path(folder, name) for name in names if _PATTERN.fullmatch(name)]


def _bury(path: Path) -> bool:
    """Removes an unfinished file unless it is being written; returns whether it was removed."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        handle = _open_any(path)
        try:
            found = os.fstat(handle)
            held = try_lock(handle)
            dead = time.time() - found.st_mtime > _DAY if held is None else held
            if not dead or not stat.S_ISREG(found.st_mode) or file_of(os.lstat(path)) != file_of(found):
                return False
            system.unlink(path)
            return True
        finally:
            system.close(handle)
    except OSError:  # already removed, or not removable: writing can continue
        return False


def _open_any(path: Path) -> int:
    """A descriptor for locking; network filesystems lock only files that are open for writing."""
    flags = system.NO_LINK | system.NO_WAIT
    try:
        return system.open(path, os.O_RDWR | flags)
    except PermissionError:
        return system.open(path, os.O_RDONLY | flags)
