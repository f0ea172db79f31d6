"""Several files that belong together, replaced all at once.

One file of the set, the manifest, names the SHA-256 of the others and is replaced last, atomically: that is the moment at which
the new set counts. The others are staged beside their places before it, and written into them after it. Whatever stops a writer,
a reader that looks for each file by its hash, in its place and in the staging, finds either the old set or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..errors import StorageError
from . import system
from .atomic import atomic_file
from .place import find_file
from .regular import read_limited
from .spare import sweep

MOST = 64 * 2**20  # bytes of a file besides the manifest


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_set(folder: Path, files: Mapping[str, bytes], manifest: Callable[[dict[str, str]], None]) -> None:
    """Replaces `files`, name -> content, and the manifest, which `manifest(hashes)` writes, atomically, with the hashes in it.

    Each file is replaced as `atomic_file` does it: links, permissions and owners stay. Raises StorageError; then the old set is
    as it was, or, once the manifest is in place, the new one is.
    """
    hashes = {name: sha256(data) for name, data in files.items()}
    changed = {name: data for name, data in files.items() if _content(find_file(folder / name).path) != data}
    staged = {name: _staging(folder, name, hashes[name]) for name in changed}
    new = [place for place in staged.values() if not os.path.lexists(place)]  # one that is there may be the old set's
    try:
        for name, data in changed.items():
            with atomic_file(staged[name], like=folder / name) as file:
                file.write(data)
    except BaseException:
        _remove(new)
        raise
    try:
        manifest(hashes)
    except StorageError as error:
        if not error.replaced:
            _remove(new)
        raise
    for name, data in changed.items():
        with atomic_file(folder / name) as file:
            file.write(data)
    _forget(folder, files)


def read_member(folder: Path, name: str, digest: str | None) -> tuple[bytes, bool]:
    """The content of a file of the set, and whether it is what the manifest names (digest None: it names nothing).

    Raises OSError when there is no such file.
    """
    try:
        data = read_limited(folder / name, MOST)
    except FileNotFoundError:
        data = None
    if data is not None and digest in (None, sha256(data)):
        return data, True
    if digest is not None and re.fullmatch("[0-9a-f]{64}", digest):
        with contextlib.suppress(OSError):
            waiting = read_limited(_staging(folder, name, digest), MOST)
            if sha256(waiting) == digest:
                return waiting, True
    if data is None:
        raise FileNotFoundError(f"{folder / name} is not there")
    return data, False


def _staging(folder: Path, name: str, digest: str) -> Path:
    return folder / f".{name}.{digest[:12]}.new"


def _content(path: Path) -> bytes | None:
    try:
        return read_limited(path, MOST)
    except OSError:
        return None


def _forget(folder: Path, names: Mapping[str, bytes]) -> None:
    """Removes what writers that were stopped have left, staged or unfinished."""
    sweep(folder)
    for name in names:
        for left in folder.glob(f".{name}.*.new"):
            if re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{12}}\.new", left.name):
                _remove([left])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            system.unlink(path)
