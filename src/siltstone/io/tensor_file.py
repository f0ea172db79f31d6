"""Reading of untrusted safetensors files: everything is checked before memory is allocated.

The header has a size limit and is read first; names, dtypes, shapes and sizes must fill the file exactly. The caller can compare
them with its needs before any data is read. Data is read directly into torch tensors, so that a file takes only its own size in
memory. For a sealed file every byte is hashed while it is read, and tensors are returned only if the checksum is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .parse import parse_object
from .regular import open_regular

HEADER = 4 * 2**20  # maximum bytes of a header; the parsed header takes about forty times as much
ZEROS = "0" * 64
BLOCK = 1 << 20
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


@dataclass(frozen=True)
class Entry:
    """The description of one tensor in the header; `size` in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    size: int

    def like(self) -> Tensor:
        """A tensor without data (on the meta device) of this dtype and shape."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


class TensorFile:
    """An open file whose header was checked.

    metadata   name -> text
    entries    name -> Entry, in the order of the data
    sealed     whether the metadata has a checksum of the whole file
    """

    def __init__(self, file: BinaryIO, front: bytes, head: dict[str, Any], room: int, seal: str):
        self._file, self._front, self._seal = file, front, seal
        self._start = len(front)
        meta = head.pop("__metadata__", {})
        if not isinstance(meta, dict) or not all(isinstance(x, str) for x in meta.values()):
            raise ValueError("was altered: its metadata is not a mapping of names to texts")
        self.metadata: dict[str, str] = meta
        self.entries = _entries(head, room)
        self.sealed = seal in meta

    def meta(self) -> dict[str, Tensor]:
        """Every tensor without its data."""
        return {name: entry.like() for name, entry in self.entries.items()}

    def read(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """The tensors for which `wanted(name)` is true. A sealed file is read as a whole; ValueError if its checksum is wrong."""
        total, found = self._hash(), {}
        self._file.seek(self._start)
        for name, entry in self.entries.items():
            if wanted(name):
                found[name] = self._tensor(name, entry, total)
            elif total is not None:
                self._skim(entry.size, total)
            else:
                self._file.seek(entry.size, os.SEEK_CUR)
        self._check(total)
        return found

    def verify(self) -> None:
        """ValueError if the checksum of a sealed file is wrong; allocates no tensors."""
        self.read(lambda name: False)

    def _hash(self) -> Any:
        if not self.sealed:
            return None
        return hashlib.sha256(self._front.replace(self._field(self.metadata[self._seal]), self._field(ZEROS), 1))

    def _field(self, digits: str) -> bytes:
        return f'"{self._seal}":"{digits}"'.encode("utf-8", "surrogatepass")

    def _check(self, total: Any) -> None:
        if total is None:
            return
        said, found = self.metadata[self._seal], total.hexdigest()
        if found != said or self._front.count(self._field(said)) != 1:
            raise ValueError(
                f"was altered after it was written: its bytes give the SHA-256 {found[:12]}… and not the recorded {said[:12]}…; "
                "restore the file from a copy"
            )

    def _tensor(self, name: str, entry: Entry, total: Any) -> Tensor:
        flat = torch.empty(entry.size, dtype=torch.uint8, device="cpu")  # with torch's alignment
        self._fill(flat.numpy().data, name)
        if total is not None:
            total.update(flat.numpy())
        if entry.dtype == torch.bool and entry.size and int(flat.max()) > 1:
            raise ValueError(f"was altered: the tensor {name[:80]!r} has bytes that are neither true nor false")
        return flat.view(entry.dtype).reshape(entry.shape)

    def _skim(self, size: int, total: Any) -> None:
        block = memoryview(bytearray(min(size, BLOCK)))
        for at in range(0, size, BLOCK):
            part = block[: min(BLOCK, size - at)]
            self._fill(part, "")
            total.update(part)

    def _fill(self, view: memoryview, name: str) -> None:
        at = 0
        while at < len(view):
            count = self._file.readinto(view[at:])  # type: ignore[attr-defined]
            if not count:
                raise ValueError(f"is truncated: it ended inside the tensor {name[:80]!r}")
            at += count


@contextlib.contextmanager
def open_tensors(
    path: str | os.PathLike[str], seal: str, most: int = HEADER, kind: str = "file of tensors"
) -> Iterator[TensorFile]:
    """A safetensors file with its header read and checked.

    seal   name of the checksum in the metadata
    most   maximum bytes of a header
    kind   type of file, for messages
    Raises OSError if the file cannot be read; ValueError if it is truncated, altered or not a safetensors file. The message
    continues a sentence that begins with the file's name.
    """
    with open_regular(path) as (file, size):
        if size < 8:
            raise ValueError(f"is truncated: it has {size} bytes, and the length of the header alone takes 8")
        front = _exactly(file, 8)
        length = int.from_bytes(front, "little")
        if length > most:
            raise ValueError(f"is not a {kind}, or its first bytes were altered")
        if length > size - 8:
            raise ValueError(f"is truncated, or not a {kind}: its header would take {length:,} of its {size:,} bytes")
        front += _exactly(file, length)
        try:
            head = parse_object(front[8:])
        except ValueError as error:
            raise ValueError(f"is not a {kind}, or was altered: its header is not a JSON object ({error})"[:300]) from None
        yield TensorFile(file, front, head, size - len(front), seal)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise ValueError("is truncated: it ended inside its header")
        data += more
    return data


def _entries(head: dict[str, Any], room: int) -> dict[str, Entry]:
    """All tensors in the order of the data. They must fill the data exactly."""
    found = []
    for name, entry in head.items():
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if isinstance(kind, str) and kind not in DTYPES:
                raise LookupError(kind)
            dtype = DTYPES[kind]
            whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in [*shape, start, end])
            whole = whole and math.prod(n or 1 for n in shape) < 2**48  # strides ignore zeros in the shape
            if not whole or len(shape) > 8 or end - start != math.prod(shape) * dtype.itemsize:
                raise ValueError("sizes do not agree")
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"was altered: its header's description of {name[:80]!r} is invalid") from None
        except LookupError as error:
            raise ValueError(
                f"has {name[:80]!r} in the dtype {str(error.args[0])[:20]!r}; supported are {', '.join(DTYPES)}"
            ) from None
        found.append((start, end, name, Entry(dtype, tuple(shape), end - start)))
    at = 0
    for start, end, name, _ in sorted(found, key=lambda e: e[:2]):
        if start != at:
            raise ValueError(f"was altered: the tensor {name[:80]!r} begins at byte {start} and not at {at}")
        at = end
    if at != room:
        what = "is truncated" if room < at else "has bytes after its end"
        raise ValueError(f"{what}: its header describes {at} bytes of data, and it has {room}")
    return {name: entry for _, _, name, entry in sorted(found, key=lambda e: e[:2])}
