"""Claims: one writer at a time for a session file or a run's folder.

    with claim("a.silt"):       # InUse if another session or run has it
        ...

A claim is a system lock (flock) on a small file: `.NAME.lock` in the folder of the file NAME, `.siltstone.lock` inside a
folder. The system releases it when the process ends, also when it is killed. The lock file contains the process number, for the
error message of others. The lock file of a killed process is not locked, and the next claim reuses it.

If the filesystem has no locks, a claim does not exclude others, and its `exclusive` is False.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import weakref
from pathlib import Path

from ..errors import InUse, StorageError
from . import system
from .place import file_of, find_file, short
from .refusal import storage_errors

_HELD = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EBADF)
_TRIES = 100


def try_lock(handle: int) -> bool | None:
    """Tries to lock an open file without waiting: False if it is locked, None if the filesystem has no locks. Raises OSError."""
    try:
        system.lock(handle)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


LOCK = ".siltstone.lock"  # in a folder that is claimed


class Claim:
    """The right to write a file or folder, until `release`, the end of a `with` block, or the end of the process.

    path        a file, which may not exist yet (links are followed), or an existing folder
    exclusive   False if the filesystem has no locks
    A child process does not share the claim. Raises InUse if there is another claim on `path`, in this process or another one;
    StorageError if the folder cannot be written or `path` cannot be a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lock = _lock_file(path)
        with storage_errors(path):
            self._handle, self.exclusive = _locked(self._lock, path)
        self._end = weakref.finalize(self, _release, self._handle, self._lock, os.getpid())
        _claims.add(self)
        try:
            with storage_errors(path):
                system.truncate(self._handle)
                system.write(self._handle, f"{os.getpid()} {socket.gethostname()}\n".encode())
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Releases the claim and removes the lock file; further calls do nothing."""
        self._end()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _forget(self) -> None:
        """In a forked child: drops the claim, which belongs to the parent."""
        if self._end.detach():
            os.close(self._handle)


def claim(path: str | os.PathLike[str]) -> Claim:
    """Claims a file or folder for this process at once; see Claim."""
    return Claim(path)


_claims: weakref.WeakSet[Claim] = weakref.WeakSet()


def _forget_all() -> None:
    for each in list(_claims):
        each._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _lock_file(path: str | os.PathLike[str]) -> Path:
    """The path of the lock file: in the folder of the file itself (links are followed), or inside a claimed folder."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        if os.path.isdir(path):
            return Path(path, LOCK)
    at = find_file(path).path
    return at.parent / f".{short(at.name)}.lock"


def _locked(lock: Path, path: str | os.PathLike[str]) -> tuple[int, bool]:
    """A descriptor of the lock file, and whether it holds the lock."""
    for _ in range(_TRIES):
        handle = _opened(lock, path)
        try:
            held = try_lock(handle)
            if held is False:
                raise InUse(f"{path} is being written by {_holder(handle)}; stop it, or choose another file")
            if _names(lock, handle):  # otherwise the previous claim removed it while it was opened
                return handle, held is True
        except BaseException:
            system.close(handle)
            raise
        system.close(handle)
    raise StorageError(f"cannot claim {path}: other processes claim and release {lock} all the time; choose another file")


def _opened(lock: Path, path: str | os.PathLike[str]) -> int:
    try:
        return system.open(lock, os.O_RDWR | os.O_CREAT | system.NO_LINK, 0o600)
    except PermissionError:
        if os.path.lexists(lock):
            raise StorageError(
                f"cannot claim {path}: {lock} belongs to another user; remove it if nobody writes there, or choose another file"
            ) from None
        raise


def _names(lock: Path, handle: int) -> bool:
    """Whether the lock file at `lock` is the one that is open."""
    try:
        return file_of(os.lstat(lock)) == file_of(os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """The holder of the claim in words, from the lock file."""
    words = os.pread(handle, 300, 0).decode(errors="replace").split()
    if len(words) != 2 or not words[0].isdecimal():
        return "another process"
    process, host = words
    if host != socket.gethostname():
        return f"process {process} on {host}"
    return "another session or run of this process" if int(process) == os.getpid() else f"process {process}"


def _release(handle: int, lock: Path, process: int) -> None:
    """Removes the lock file while it is locked, so that no other lock file is removed, and releases the lock."""
    if os.getpid() != process:
        return
    try:
        with contextlib.suppress(OSError):  # a lock file without a lock has no effect
            if _names(lock, handle):
                system.unlink(lock)
    finally:
        with contextlib.suppress(OSError):
            system.close(handle)
