"""A disk that forgets what was not flushed.

Strictly by the letter of POSIX: the content of a file is safe when the file was flushed (fsync), its name when its folder was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

File = tuple[int, int]


def _file(found: os.stat_result) -> File:
    return found.st_dev, found.st_ino


class Disk:
    """Watches system calls (see `do`), so that `cut` can undo what a power cut may undo.

    vault   a folder on the same filesystem, where it keeps what has lost its name
    """

    def __init__(self, vault: Path) -> None:
        vault.mkdir()
        self._vault = vault
        self._names: list[tuple[File, Callable[[], None]]] = []  # changes of names that are not safe: folder, how to undo it
        self._safe: dict[File, bytes] = {}  # what is safe of the content of each file
        self._handles: dict[File, int] = {}

    def do(self, name: str, call: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        """Does the system call, and remembers how to undo it."""
        before = getattr(self, f"_before_{name}", lambda *_: None)(*values)
        result = call(*values)
        if before is not None:
            self._names.append(before)
        if name == "open":
            self._opened(*values[:2])
        elif name == "fsync":
            self._flushed(values[0])
        return result

    def cut(self, kept: int, data: bool) -> None:
        """The power fails.

        kept    how many of the changes of names, the first ones, reached the disk though nobody waited for them
        data    whether contents did
        """
        for file, handle in self._handles.items():
            if not data:
                os.ftruncate(handle, 0)
                os.pwrite(handle, self._safe[file], 0)
            os.close(handle)
        for _, undo in reversed(self._names[kept:]):
            undo()

    def _opened(self, path: Path, flags: int) -> None:
        if flags & (os.O_WRONLY | os.O_RDWR):
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            found = os.fstat(handle)
            if _file(found) in self._handles:
                os.close(handle)
            else:
                self._handles[_file(found)] = handle
                self._safe[_file(found)] = os.pread(handle, found.st_size, 0)

    def _flushed(self, handle: int) -> None:
        file = _file(os.fstat(handle))
        if file in self._handles:
            self._safe[file] = os.pread(self._handles[file], os.fstat(handle).st_size, 0)
        self._names = [(folder, undo) for folder, undo in self._names if folder != file]

    def _kept(self, path: Path) -> Path | None:
        """A name in the vault for what is at `path`."""
        if not os.path.lexists(path):
            return None
        name = self._vault / str(len(os.listdir(self._vault)))
        os.link(path, name, follow_symlinks=False)
        return name

    def _change(self, path: Path, undo: Callable[[], None]) -> tuple[File, Callable[[], None]]:
        return _file(os.stat(path.parent)), undo

    def _before_open(self, path: Path, flags: int, mode: int = 0) -> Any:
        if flags & os.O_CREAT and not os.path.lexists(path):
            return self._change(path, lambda: path.unlink(missing_ok=True))
        return None

    def _before_replace(self, source: Path, target: Path) -> Any:
        old = self._kept(target)

        def undo() -> None:
            os.rename(target, source)
            if old:
                os.link(old, target)

        return self._change(target, undo)

    def _before_link(self, source: Path, target: Path) -> Any:
        return self._change(target, lambda: target.unlink(missing_ok=True))

    def _before_unlink(self, path: Path) -> Any:
        old = self._kept(path)
        return self._change(path, lambda: os.link(old, path)) if old else None

    def _before_mkdir(self, path: Path) -> Any:
        return self._change(path, lambda: shutil.rmtree(path, ignore_errors=True))

    def _before_rmdir(self, path: Path) -> Any:
        return self._change(path, path.mkdir)
