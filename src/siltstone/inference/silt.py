"""The session file: a safetensors file that proves itself whole.

    8 bytes   length n of the header, little-endian
    n bytes   JSON: for every tensor {"dtype", "shape", "data_offsets"}, and
              "__metadata__": {"silt": HEADER, "sha256": SUM}
    the rest  the tensors' bytes, one after the other, nothing between them and nothing behind

HEADER is a JSON text: format (the version, 1), position, model (config and weights' fingerprint), tokenizer, dtype,
state, parts and notes. SUM is the SHA-256 of the whole file, taken with the 64 digits of SUM themselves written as
zeros: every byte of the file counts, the sum's own included. Any safetensors reader can open the file; this one also
checks the sum. Later formats keep the lines above, so that a file from the future is known for one.

Nothing in a file is trusted: the header is bounded, its sizes are compared with the file's own and with what the caller
expects before memory is taken, tensors are handed out only when the sum is right, and nothing is ever unpickled or run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, SessionCorrupt, SessionFileError, SessionVersion, SiltstoneError
from ..io import Stamp, write_sealed
from ..io.parse import parse_object
from ..io.regular import given_path, is_folder, reason
from ..io.tensor_file import TensorFile, open_tensors

VERSION = 1
MAX_HEADER = 2**20  # bytes; a real one has some ten thousand, and the caller's notes
SEAL = "sha256"
WRITERS = "`siltstone stream --session FILE`, `generate --session FILE` and `Session.save`"
Check = Callable[[dict[str, Any], dict[str, Tensor]], None]


def header_text(header: dict[str, Any]) -> str:
    """The header of a file to be written. Raises InputError where it could not be read again: notes that are too large, too
    deep, or no JSON."""
    try:
        text = json.dumps({"format": VERSION} | header, allow_nan=False)
        parse_object(text)
        _check_keys(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the session's notes cannot be saved: {str(error)[:200]}; give plain JSON values") from None
    if len(json.dumps(text)) > MAX_HEADER // 2:  # as it stands in the file; the tensors' names need room too
        raise InputError(f"the session's notes take {len(text):,} bytes, and {MAX_HEADER // 2:,} at most are saved; shorten them")
    return text


def _check_keys(value: Any) -> None:
    """ValueError for keys that JSON would turn into texts."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"keys must be texts, and {wrong[0]!r:.40} is one")
        value = value.values()
    for inside in value if not isinstance(value, str) and isinstance(value, Iterable) else ():
        _check_keys(inside)


def write(
    path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Tensor], expected: Stamp | None = None
) -> Stamp | None:
    """Write a session file; the old file stays until the new one is whole on disk. Returns its stamp.

    expected   the stamp of the file that may be replaced; None: any
    Raises StorageError, and FileChanged where another file is there; InputError for a header that cannot be read again.
    """
    flat = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    return write_sealed(Path(path), flat, {"silt": header_text(header)}, SEAL, expected)


def read(
    path: str | os.PathLike[str], check: Check = lambda header, tensors: None, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (on the CPU) of a session file that is proven whole.

    check    is given the header, and every tensor without its data, before any data is read; what it raises is raised here,
             unless the file was altered
    wanted   names of the tensors whose data is read; the others are only proven whole
    Raises SessionCorrupt (truncated, altered, not a session file), SessionVersion (from a newer format),
    SessionFileError (no such file, or it cannot be read), InputError for what is no path.
    """
    given_path(path)
    with _readable(path), open_tensors(path, SEAL, MAX_HEADER, "session file") as file:
        return _read(path, file, check, wanted)


def _read(
    path: str | os.PathLike[str], file: TensorFile, check: Check, wanted: Callable[[str], bool]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header = _header(path, file)
    try:
        _check_version(path, header)
        check(header, file.meta())
    except SiltstoneError:
        file.verify()
        raise
    return header, file.read(wanted)


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Every failure of a file as an error about session files."""
    if is_folder(path):
        where = _folder(Path(path))
        raise SessionFileError(f"session file {path} cannot be read: it is {where}; give a file that {WRITERS} write")
    try:
        yield
    except SiltstoneError:
        raise
    except OSError as error:
        raise SessionFileError(f"session file {_cut(path)} cannot be read: {reason(error)}; check the path") from None
    except ValueError as error:
        raise SessionCorrupt(f"{_cut(path)} {error}; session files are what {WRITERS} write") from None


def _cut(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if len(name) <= 300 else f"{name[:140]}…{name[-140:]}"


def _folder(path: Path) -> str:
    """What is in a folder that was given for a session file, and what can be done with it."""
    if (path / "model.safetensors").is_file() and (path / "config.json").is_file():
        return f"the folder of a model (`siltstone doctor {path}` examines it)"
    return "the folder of a run in training" if (path / "train.json").is_file() else "a folder"


def _header(path: str | os.PathLike[str], file: TensorFile) -> dict[str, Any]:
    if "silt" not in file.metadata or not file.sealed:
        raise SessionCorrupt(
            f"{path} is not a session file, or its header was altered: it may hold tensors, as a model's weights, but "
            f"describes no session; session files are what {WRITERS} write"
        )
    try:
        return parse_object(file.metadata["silt"])
    except ValueError as error:
        file.verify()
        raise SessionCorrupt(f"{path} is not a session file: its description is no JSON object ({error})") from None


def _check_version(path: str | os.PathLike[str], header: dict[str, Any]) -> None:
    version = header.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SessionCorrupt(f"{path} names no format version (found {version!r:.80}, expected a whole number from 1)")
    if version > VERSION:
        raise SessionVersion(f"{path} has session format {version}, and this Siltstone reads up to {VERSION}; use a newer one")
