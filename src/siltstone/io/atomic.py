"""Atomic files: written under another name in the same folder, flushed to disk, then renamed.

A reader sees the complete old file or the complete new one, whatever happens in between. Errors of the system (no space, no
permission, no such folder) are raised as `StorageError`, and the unfinished file is removed. Symbolic links are kept, and their
targets are replaced. Decision 19 describes the guarantees of a save step by step.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import NotDurable
from . import system
from .access import keep_access
from .folder import close_folder, make_folder, open_folder, sync
from .place import Place, Stamp, find, find_file, stamp_of
from .refusal import reason, storage_errors
from .spare import Spare, sweep
from .swap import replace_expected

__all__ = [
    "AtomicFile",
    "atomic_file",
    "check_place",
    "make_folder",
    "output_file",
    "storage_errors",
    "sweep",
    "write_bytes",
    "write_json",
    "write_text",
]

_BUFFER = 1 << 16  # bytes


class _Raw(io.FileIO):
    """An open descriptor that is written with `system.write`; its owner closes it."""

    def __init__(self, handle: int, path: Path) -> None:
        super().__init__(handle, "wb", closefd=False)
        self._path = path

    def write(self, data: Any, /) -> int:
        """See io.RawIOBase. Raises StorageError."""
        view = memoryview(data).cast("B")
        with storage_errors(self._path):
            done = system.write(self.fileno(), view)
            if len(view) and not done:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return done


class AtomicFile(io.BufferedWriter):
    """The new file while it is written.

    stamp   the stamp of its content, set after it was renamed; for the next `atomic_file(path, expected=...)`
    """

    stamp: Stamp | None = None


@contextlib.contextmanager
def atomic_file(
    path: str | os.PathLike[str], expected: Stamp | None = None, like: str | os.PathLike[str] | None = None
) -> Iterator[AtomicFile]:
    """A binary file that replaces `path` when the block ends, and is removed if the block raises.

    expected    the stamp of the file that may be replaced (ABSENT: there must be no file)
    like        a file whose permissions are used for a new file, if it exists
    The parent folder must exist. The new file gets the permissions of the old one; other hard links still lead to the old one.
    Raises StorageError if writing fails or `path` is not a file (a folder, a device, a pipe), and these kinds of it:
    FileChanged if another file than the expected one is there; NotDurable if the file was replaced, but the disk did not confirm
    it. After any other error the old file is unchanged.
    """
    with storage_errors(path):
        place = find_file(path)
        model = place if place.found is not None or like is None else find_file(like)
        spare = Spare(place.path, 0o666 if model.found is None else 0o600)
    try:
        raw = _Raw(spare.handle, place.asked)
        file = AtomicFile(raw, _BUFFER)
        try:
            yield file
            file.flush()
            with storage_errors(path):
                _finish(place, model, spare, file, expected)
        finally:
            raw.close()  # not file.close(), which would write the rest of its buffer
    except BaseException:
        spare.discard()
        raise


def _finish(place: Place, model: Place, spare: Spare, file: AtomicFile, expected: Stamp | None) -> None:
    """Flushes a written file, gives it the permissions of `model`, and renames it. Raises OSError, FileChanged, NotDurable."""
    old = find_file(model.path).found  # permissions may have changed in between
    if old is not None:
        keep_access(spare.handle, model.path, old)
    folder = open_folder(place.path.parent)
    try:
        system.fsync(spare.handle)
        written = stamp_of(os.fstat(spare.handle))
        if not spare.locked:  # it can be closed early without loss, and some such systems cannot rename an open file
            spare.close()
        if expected is None:
            system.replace(spare.path, place.path)
        else:
            replace_expected(spare.path, place.path, expected, place.asked)
        file.stamp = written
        try:
            if folder is not None:
                sync(folder)
            spare.close()
        except OSError as error:
            raise NotDurable(
                f"{place.asked} was replaced, but the disk did not confirm it ({reason(error)}): a power failure now may bring "
                "the old file back; correct this, and save again"
            ) from error
    finally:
        if folder is not None:
            close_folder(folder)


@contextlib.contextmanager
def output_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """As `atomic_file`, but a device, a pipe or an open stream (/dev/null, /dev/stdout) is written directly.

    For output that is not read again by Siltstone, such as a report. Raises StorageError.
    """
    place = find(path)
    if not place.streams:
        with atomic_file(path) as file:
            yield file
        return
    with storage_errors(path):
        if place.handle == 1 and sys.stdout is not None:
            sys.stdout.flush()  # earlier output comes first
        handle = os.dup(place.handle) if place.handle is not None else system.open(place.path, os.O_WRONLY)
    try:
        raw = _Raw(handle, place.asked)
        file = io.BufferedWriter(raw, _BUFFER)
        try:
            yield file
            file.flush()
        finally:
            raw.close()
    except BaseException:
        with contextlib.suppress(OSError):
            system.close(handle)
        raise
    with storage_errors(path):
        system.close(handle)


def check_place(path: str | os.PathLike[str], streams: bool = True) -> None:
    """StorageError if `path` cannot be written; called before long work.

    streams     True: `output_file` will write it, and devices and pipes are allowed; False: `atomic_file` will
    """
    place = find(path) if streams else find_file(path)
    with storage_errors(path):
        if not place.streams:
            Spare(place.path, 0o600).discard()
        elif place.handle is None and not os.access(place.path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` as the whole file, or to a device, a pipe or an open stream. Raises StorageError."""
    with output_file(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """As `write_bytes`, in UTF-8; lone surrogates, which UTF-8 cannot encode, are written as escapes. Raises StorageError."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """As `write_text`, `value` as indented JSON with a final line end. Raises StorageError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
