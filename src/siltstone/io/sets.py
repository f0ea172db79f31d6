"""Several files that belong together, replaced as one set.

One file of the set, the manifest, has the SHA-256 of the others. Its atomic replacement is the moment at which the new set
becomes valid. The other files are staged in the same folder before, and replaced after it. A reader looks for each file by its
hash, at its place and among the staged files. If a writer is interrupted, the reader finds either the old set or the new one.
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
from .spare import sweep, unfinished

MOST = 64 * 2**20  # maximum bytes of a file other than the manifest


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_set(folder: Path, files: Mapping[str, bytes], manifest: Callable[[dict[str, str]], None]) -> None:
    """Replaces `files`, name -> content, and the manifest. `manifest(hashes)` writes the manifest with the hashes, atomically.

    Each file is replaced with `atomic_file`: links, permissions and owners are kept. Raises StorageError; then the old set is
    valid, or, if the manifest was already replaced, the new one.
    """
    hashes = {name: sha256(data) for name, data in files.items()}
    changed = {name: data for name, data in files.items() if _content(find_file(folder / name).path) != data}
    staged = {name: _staging(folder, name, hashes[name]) for name in changed}
    new = [place for place in staged.values() if not os.path.lexists(place)]  # an existing one may belong to the old set
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
    remove_left_over(folder, files)


def read_member(folder: Path, name: str, digest: str | None) -> tuple[bytes, bool]:
    """The content of a file of the set, and whether it has the hash in the manifest (digest None: the manifest has none).

    Raises OSError if there is no such file.
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
        raise FileNotFoundError(f"{folder / name} does not exist")
    return data, False


def left_over(folder: Path, names: Iterable[str]) -> bool:
    """Whether a writer of these files left something that it could not remove. No save may be unfinished."""
    return any(_staged(folder, name) for name in names) or bool(unfinished(folder))


def remove_left_over(folder: Path, names: Iterable[str]) -> None:
    """Removes what `left_over` finds, as far as the system allows it."""
    sweep(folder)
    _remove(path for name in names for path in _staged(folder, name))


def _staging(folder: Path, name: str, digest: str) -> Path:
    return folder / f".{name}.{digest[:12]}.new"


def _content(path: Path) -> bytes | None:
    try:
        return read_limited(path, MOST)
    except OSError:
        return None


def _staged(folder: Path, name: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{12}}\.new")
    return [path for path in folder.glob(f".{name}.*.new") if pattern.fullmatch(path.name)]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            system.unlink(path)
