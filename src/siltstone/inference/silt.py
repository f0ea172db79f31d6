"""The session file: a safetensors file with a checksum of all its bytes.

    8 bytes   length n of the header, little-endian
    n bytes   JSON: for every tensor {"dtype", "shape", "data_offsets"}, and
              "__metadata__": {"silt": HEADER, "sha256": SUM}
    the rest  the tensors' bytes, one after the other, without gaps and without anything after them

HEADER is a JSON text: format (the version, 1), position, model (config and weights' fingerprint), tokenizer, dtype,
state, parts and notes. SUM is the SHA-256 of the whole file, computed with the 64 digits of SUM replaced by zeros, so
that it covers every byte of the file. Any safetensors reader can open the file; this one also checks the sum. Later
formats keep the layout above, so that a reader can tell a newer format from a damaged file.

Nothing in a file is trusted: the size of the header is limited; sizes are compared with the size of the file and with what
the caller expects before memory is allocated; tensors are returned only if the sum is right; nothing is unpickled or run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from ..errors import InputError, SessionCorrupt, SessionFileError, SessionVersion, SiltstoneError
from ..io import Stamp, write_sealed
from ..io.parse import parse_object
from ..io.regular import errors_of, given_path, is_folder
from ..io.tensor_file import TensorFile, open_tensors
from ..io.tensors import dump_sealed

VERSION = 1
MAX_HEADER = 2**20  # bytes; a typical header has ten thousand, and the caller's notes
SEAL = "sha256"
WRITERS = "`siltstone stream --session FILE`, `generate --session FILE` and `Session.save`"
Check = Callable[[dict[str, Any], dict[str, Tensor]], None]


def header_text(header: dict[str, Any]) -> str:
    """The header of a file to be written. Raises InputError if it could not be read again: notes that are too large, nested too
    deeply, or not JSON."""
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
    """ValueError for keys that are not texts: JSON would convert them."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"keys must be texts, and the key {wrong[0]!r:.40} is not")
        value = value.values()
    for inside in value if not isinstance(value, str) and isinstance(value, Iterable) else ():
        _check_keys(inside)


def write(
    path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Tensor], expected: Stamp | None = None
) -> Stamp | None:
    """Write a session file; the old file is kept until the new one is complete on disk. Returns the new file's stamp.

    expected   the stamp of the file that may be replaced; None: any
    Raises StorageError, FileChanged if another file is there, and InputError for a header that cannot be read again.
    """
    flat = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    return write_sealed(Path(path), flat, {"silt": header_text(header)}, SEAL, expected)


def dump(file: BinaryIO, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The same bytes as `write`, to an open file."""
    dump_sealed(file, tensors, {"silt": header_text(header)}, SEAL)


def read(
    path: str | os.PathLike[str], check: Check = lambda header, tensors: None, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (on the CPU) of a session file, after its checksum was verified.

    check    called with the header, and every tensor without its data, before any data is read; its errors are raised here,
             unless the file was altered
    wanted   whether the data of a tensor of this name is read; the other tensors are only verified
    Raises SessionCorrupt (truncated, altered, not a session file), SessionVersion (from a newer format),
    SessionFileError (no such file, or it cannot be read), InputError if path is not a path.
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
    """Turns every error of reading a file into an error about session files."""
    if is_folder(path):
        where = _folder(Path(path))
        raise SessionFileError(f"session file {path} cannot be read: it is {where}; give a file that {WRITERS} write")
    with errors_of(
        lambda why: SessionFileError(f"session file {_cut(path)} cannot be read: {why}; check the path"),
        lambda why: SessionCorrupt(f"{_cut(path)} {why}; session files are what {WRITERS} write"),
    ):
        yield


def _cut(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if len(name) <= 300 else f"{name[:140]}…{name[-140:]}"


def _folder(path: Path) -> str:
    """What kind of folder was given in place of a session file, and what the user can do with it."""
    if (path / "model.safetensors").is_file() and (path / "config.json").is_file():
        return f"the folder of a model (`siltstone doctor {path}` examines it)"
    return "the folder of a run in training" if (path / "train.json").is_file() else "a folder"


def _header(path: str | os.PathLike[str], file: TensorFile) -> dict[str, Any]:
    if "silt" not in file.metadata or not file.sealed:
        raise SessionCorrupt(
            f"{path} is not a session file, or its header was altered: it may contain tensors, for example a model's weights, "
            f"but describes no session; session files are what {WRITERS} write"
        )
    try:
        return parse_object(file.metadata["silt"])
    except ValueError as error:
        file.verify()
        raise SessionCorrupt(f"{path} is not a session file: its description is not a JSON object ({error})") from None


def _check_version(path: str | os.PathLike[str], header: dict[str, Any]) -> None:
    version = header.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SessionCorrupt(f"{path} has no format version (found {version!r:.80}, expected a whole number from 1)")
    if version > VERSION:
        raise SessionVersion(f"{path} has session format {version}, and this Siltstone reads up to {VERSION}; use a newer one")
