"""Atomic files: written beside their place under another name, flushed to the disk, then renamed.

A reader sees the old file or the new one, whole, whatever happens in between. What the system refuses (no space, no
permission, no such folder) is raised as `StorageError`, and the unfinished file is removed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import StorageError

_MENDS = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file grew beyond the largest size allowed here: raise the limit, or choose another folder",
    errno.EACCES: "the folder cannot be written: change its permissions, or choose another one",
    errno.EPERM: "the folder cannot be written: change its permissions, or choose another one",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOENT: "the folder is not there: create it, or choose another one",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another one",
    errno.EISDIR: "this is a folder: give the name of a file",
    errno.EEXIST: "a file of that name is in the way: remove it, or choose another folder",
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """What `error` says about writing `path`, with the mend."""
    return StorageError(f"cannot write {path}: {_MENDS.get(error.errno or 0, error.strerror or str(error))}")


@contextlib.contextmanager
def storage_errors(path: str | Path) -> Iterator[None]:
    """Turns the system's errors about writing `path` into StorageError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(Path(path), error) from error


def make_folder(path: str | Path) -> Path:
    """Creates the folder `path` and its parents where they are not there. Raises StorageError."""
    with storage_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def check_place(path: Path) -> None:
    """StorageError now, and not after long work, where `path` cannot be written."""
    with storage_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder")
        tempfile.TemporaryFile(dir=path.parent).close()


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, and vanishes if the block raises.

    The parent folder must exist. Raises StorageError where the system refuses.
    """
    path = Path(path)
    spare = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    with storage_errors(path):
        try:
            with open(spare, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(spare, path)
        except BaseException:
            with contextlib.suppress(OSError):
                spare.unlink()
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` last through a power cut, where the system can (Windows cannot open folders)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sweep(folder: str | Path) -> int:
    """Removes what killed writers left unfinished in `folder`; returns how many files. No writer may be at work there."""
    spares = list(Path(folder).glob(".*.tmp"))
    for spare in spares:
        with contextlib.suppress(OSError):
            spare.unlink()
    return len(spares)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes `data` as the whole file. Raises StorageError."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` in UTF-8 as the whole file. Raises StorageError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON with a final line end. Raises StorageError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
