"""Errors of the system as StorageError with the mend."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from ..errors import StorageError

_ACCESS = "the file or its folder cannot be written: change the permissions, or choose another one"
_NAME = "the name or the path is too long: choose a shorter one"
_FILES = "too many files are open: close some, or raise the limit (`ulimit -n`)"
_DEVICE = "the disk failed to store it: check the disk, or choose another one"
_MENDS = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file exceeds the maximum size allowed here: raise the limit, or choose another folder",
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOENT: "the folder does not exist: create it, or choose another one",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another one",
    errno.EISDIR: "this is a folder: give the name of a file",
    errno.EEXIST: "a file with this name already exists: remove it, or choose another folder",
    errno.EIO: _DEVICE,
    errno.ENXIO: "this device or pipe has no reader: choose a file",
    errno.EPIPE: "the reader of this pipe has closed it: keep it open, or choose a file",
    errno.ESTALE: "the network folder was replaced on its server: mount it again, or choose another folder",
    errno.EINTR: "a signal interrupted the system: try again",
    errno.EBUSY: "the system is using it: try again, or choose another name",
    errno.ENAMETOOLONG: _NAME,
    errno.ELOOP: "its symbolic links form a loop: remove one of them, or choose another name",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EMLINK: "the folder has too many folders in it: choose another one",
}


def reason(error: OSError) -> str:
    """The reason of `error`, with the mend if there is one."""
    return _MENDS.get(error.errno or 0, error.strerror or str(error))


def storage_error(path: str | os.PathLike[str], error: OSError) -> StorageError:
    """`error` as a StorageError about writing `path`, with the mend."""
    return StorageError(f"cannot write {path}: {reason(error)}")


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the system's errors about writing `path` into StorageError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error
