"""Unfinished files: how they are named, that their writers are alive, and how those of dead writers are removed.

The file that is to become NAME is `.NAME.HEX.tmp` beside it, with twelve hexadecimal digits. Its writer holds a lock on it
(flock) from the beginning to the end. The system lifts the lock when the writer dies, so that anyone can tell a file that
was left behind from one at work. Where the filesystem has no locks, a file of the last day counts as one at work.
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
_LOOKED_AT = 250  # names of a folder among which a writer looks for what others left: a tenth of a millisecond
_DAY = 86400.0  # seconds


def _digits(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


class Spare:
    """An unfinished file beside `target`, open for writing, empty, claimed.

    target      what it is to become; its folder must exist
    mode        permissions of the new file, less what the umask takes away
    Dead writers' unfinished files of the same target are removed first. Raises OSError.

    path        its name
    handle      its descriptor
    locked      False where the filesystem has no locks
    """

    def __init__(self, target: Path, mode: int) -> None:
        clear(target)
        stem, flags = short(target.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | system.NO_LINK
        # The first name tried is always the same, so that what a lone writer left is found in folders of any size.
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
            self.close()  # one who removes dead writers' files was quicker than the lock, and removes this one
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def close(self) -> None:
        """Closes the file, once; it is no longer claimed then."""
        if self._open:
            self._open = False
            system.close(self.handle)

    def discard(self) -> None:
        """Removes the file if it still has its first name, and closes it. What fails here is left to the next writer."""
        try:
            with contextlib.suppress(OSError):
                if file_of(os.lstat(self.path)) == self._file:
                    system.unlink(self.path)
        finally:
            with contextlib.suppress(OSError):
                self.close()


def clear(target: Path) -> None:
    """Removes dead writers' unfinished files of `target`: all in small folders, that of a lone writer in any."""
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
    """Removes the unfinished files in `folder` whose writers are dead; returns how many.

    Files of other names, links, and files whose writers are at work stay, and so does what cannot be removed.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    return sum(_bury(Path(folder, name)) for name in names if _PATTERN.fullmatch(name))


def _bury(path: Path) -> bool:
    """Removes an unfinished file unless its writer is at work; whether it did."""
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
    except OSError:  # another was quicker, or it may not be removed: no reason to write nothing
        return False


def _open_any(path: Path) -> int:
    """For locking; network filesystems lock only what is open for writing."""
    flags = system.NO_LINK | system.NO_WAIT
    try:
        return system.open(path, os.O_RDWR | flags)
    except PermissionError:
        return system.open(path, os.O_RDONLY | flags)
