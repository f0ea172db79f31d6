"""The session file: a safetensors file that proves itself whole.

    8 bytes   length n of the header, little-endian
    n bytes   JSON: for every tensor {"dtype", "shape", "data_offsets"}, and
              "__metadata__": {"silt": HEADER, "sha256": SUM}
    the rest  the tensors' bytes, one after the other, nothing between them and nothing behind

HEADER is a JSON text: format (the version, 1), position, model (config and weights' fingerprint), tokenizer, dtype,
state, parts and notes. SUM is the SHA-256 of the whole file, taken with the 64 digits of SUM themselves written as
zeros: every byte of the file counts, the sum's own included. Any safetensors reader can open the file; this one also
checks the sum. Later formats keep the lines above, so that a file from the future is known for one.

Nothing in a file is trusted: lengths are compared with the file's own before memory is taken, tensors are handed out
only when the sum is right, and nothing is ever unpickled or run. What a file says about itself is checked by the reader
of the header (`Session.load`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import SessionCorrupt, SessionFileError, SessionVersion
from ..io import atomic_file
from ..io.tensors import dump_tensors

VERSION = 1
MAX_HEADER = 16 * 2**20  # bytes; a real one has some ten thousand
ZEROS = "0" * 64
WRITERS = "`siltstone stream --session FILE`, `generate --session FILE` and `Session.save`"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _Hash:
    """A file that keeps only the hash of what is written to it."""

    def __init__(self) -> None:
        self.total = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.total.update(data)


def write(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a session file; the old file stays until the new one is whole on disk. Raises StorageError."""
    flat = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    about = {"silt": json.dumps({"format": VERSION} | header, allow_nan=False), "sha256": ZEROS}
    sink: Any = _Hash()
    dump_tensors(sink, flat, about)
    with atomic_file(Path(path)) as file:
        dump_tensors(file, flat, about | {"sha256": sink.total.hexdigest()})


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (on the CPU) of a session file that is proven whole.

    Raises SessionCorrupt (truncated, altered, not a session file), SessionVersion (from a newer format),
    SessionFileError (no such file, or it cannot be read).
    """
    path = Path(path)
    if path.is_dir():
        raise SessionFileError(f"session file {path} cannot be read: it is {_folder(path)}; give a file that {WRITERS} write")
    try:
        with open(path, "rb") as file:
            return _read(path, file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise SessionFileError(f"session file {path} cannot be read: {error.strerror or error}; check the path") from None


def _folder(path: Path) -> str:
    """What is in a folder that was given for a session file, and what can be done with it."""
    if (path / "model.safetensors").is_file() and (path / "config.json").is_file():
        return f"the folder of a model (`siltstone doctor {path}` examines it)"
    return "the folder of a run in training" if (path / "train.json").is_file() else "a folder"


def _read(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if size < 8:
        raise SessionCorrupt(f"{path} is truncated: it has {size} bytes, and a session file begins with 8 of length")
    front = file.read(8)
    length = int.from_bytes(front, "little")
    if length > min(MAX_HEADER, size - 8):
        what = f"truncated, or no session file: its header would take {length} of its {size} bytes"
        what = what if length <= MAX_HEADER else "no session file, or its first bytes were altered"
        raise SessionCorrupt(f"{path} is {what}; session files are what {WRITERS} write")
    front += file.read(length)
    head = _json(path, front[8:], "header")
    meta = head.pop("__metadata__", None)
    if not isinstance(meta, dict) or not isinstance(meta.get("silt"), str) or not isinstance(meta.get("sha256"), str):
        raise SessionCorrupt(
            f"{path} is not a session file, or its header was altered: it may hold tensors, as a model's weights, but "
            f"describes no session; session files are what {WRITERS} write"
        )
    entries = _entries(path, head, size - len(front))

    field = _sum_field(meta["sha256"])
    total = hashlib.sha256(front.replace(field, _sum_field(ZEROS), 1))
    tensors = {name: _tensor(path, file, name, dtype, shape, length, total) for name, dtype, shape, length in entries}
    if total.hexdigest() != meta["sha256"] or front.count(field) != 1:
        raise SessionCorrupt(
            f"{path} was altered after it was written: its bytes give the SHA-256 {total.hexdigest()[:12]}… and not "
            f"{meta['sha256'][:12]}…, which it records; restore the file from a copy"
        )
    header = _json(path, meta["silt"], "description of the session")
    version = header.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SessionCorrupt(f"{path} names no format version (found {version!r}, expected a whole number from 1)")
    if version > VERSION:
        raise SessionVersion(f"{path} has session format {version}, and this Siltstone reads up to {VERSION}; use a newer one")
    return header, tensors


def _sum_field(digits: str) -> bytes:
    return b'"sha256":"' + digits.encode("utf-8", "surrogatepass") + b'"'


def _json(path: Path, text: str | bytes, what: str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        out = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        out = None
    if not isinstance(out, dict):
        raise SessionCorrupt(f"{path} is not a session file, or was altered: its {what} is not a JSON object")
    return out


def _entries(path: Path, head: dict[str, Any], room: int) -> list[tuple[str, torch.dtype, list[int], int]]:
    """Name, dtype, shape and bytes of every tensor in the order of the file, which they must fill exactly."""
    found = []
    for name, entry in head.items():
        try:
            dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in [*shape, start, end])
            if not whole or len(shape) > 8 or end - start != math.prod(shape) * dtype.itemsize:
                raise ValueError("sizes do not agree")
        except (KeyError, TypeError, ValueError):
            raise SessionCorrupt(f"{path} was altered: its header's description of {name[:80]!r} makes no sense") from None
        found.append((start, end, name, dtype, shape))
    at = 0
    for start, end, name, _, _ in sorted(found, key=lambda e: e[:2]):
        if start != at:
            raise SessionCorrupt(f"{path} was altered: the tensor {name[:80]!r} begins at byte {start} and not at {at}")
        at = end
    if at != room:
        what = "is truncated" if room < at else "has bytes behind its end"
        raise SessionCorrupt(f"{path} {what}: its header promises {at} bytes of data, and {room} are there")
    return [(name, dtype, shape, end - start) for start, end, name, dtype, shape in sorted(found, key=lambda e: e[:2])]


def _tensor(path: Path, file: BinaryIO, name: str, dtype: torch.dtype, shape: list[int], length: int, total: Any) -> Tensor:
    data = bytearray(length)
    if length and file.readinto(data) != length:  # type: ignore[attr-defined]
        raise SessionCorrupt(f"{path} is truncated: it ended inside the tensor {name[:80]!r}")
    total.update(data)
    try:
        flat = torch.frombuffer(data, dtype=torch.uint8).view(dtype) if length else torch.empty(0, dtype=dtype)
        return flat.reshape(shape).clone()  # into memory aligned as torch aligns its own: the same bits from the same kernels
    except (RuntimeError, OverflowError):
        raise SessionCorrupt(f"{path} was altered: the tensor {name[:80]!r} cannot have the shape {shape}") from None
