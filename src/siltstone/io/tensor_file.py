"""Reading safetensors files of strangers: nothing in them is trusted, and no memory is taken before it is checked.

The header is bounded and read by itself; names, dtypes, shapes and sizes must fill the file exactly. Whoever opened the file
can compare them with what it needs before any data is read. Data then goes straight into tensors of torch, so that a file
takes its own size in memory and no more; of a sealed file every byte is hashed on the way, and nothing is handed out unless
the sum is right.
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

HEADER = 4 * 2**20  # bytes of a header at most; parsed, it takes some forty times as much
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
    """What the header says of one tensor; `size` in bytes."""

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
    sealed     whether the metadata holds a sum of the whole file
    """

    def __init__(self, file: BinaryIO, front: bytes, head: dict[str, Any], room: int, seal: str):
        self._file, self._front, self._seal = file, front, seal
        self._start = len(front)
        meta = head.pop("__metadata__", {})
        if not isinstance(meta, dict) or not all(isinstance(x, str) for x in meta.values()):
            raise ValueError("was altered: its metadata are not texts with names")
        self.metadata: dict[str, str] = meta
        self.entries = _entries(head, room)
        self.sealed = seal in meta

    def meta(self) -> dict[str, Tensor]:
        """Every tensor without its data."""
        return {name: entry.like() for name, entry in self.entries.items()}

    def read(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """The tensors whose names are wanted. Of a sealed file all is read, and ValueError raised unless the sum is right."""
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
        """ValueError unless the sum of a sealed file is right; takes no memory."""
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
        flat = torch.empty(entry.size, dtype=torch.uint8, device="cpu")  # aligned as torch aligns its own
        self._fill(flat.numpy().data, name)
        if total is not None:
            total.update(flat.numpy())
        if entry.dtype == torch.bool and entry.size and int(flat.max()) > 1:
            raise ValueError(f"was altered: the tensor {name[:80]!r} holds bytes that are neither true nor false")
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

    seal   the name of the sum in the metadata
    most   bytes of a header at most; kind: what the file should be, for messages
    Raises OSError when the file cannot be read; ValueError, with a reason that goes on from the file's name, when it is no
    safetensors file, truncated or altered.
    """
    with open_regular(path) as (file, size):
        if size < 8:
            raise ValueError(f"is truncated: it has {size} bytes, and such a file begins with 8 of length")
        front = _exactly(file, 8)
        length = int.from_bytes(front, "little")
        if length > most:
            raise ValueError(f"is no {kind}, or its first bytes were altered")
        if length > size - 8:
            raise ValueError(f"is truncated, or no {kind}: its header would take {length:,} of its {size:,} bytes")
        front += _exactly(file, length)
        try:
            head = parse_object(front[8:])
        except ValueError as error:
            raise ValueError(f"is no {kind}, or was altered: its header is not a JSON object ({error})"[:300]) from None
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
    """Every tensor in the order of the data, which they must fill exactly."""
    found = []
    for name, entry in head.items():
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if isinstance(kind, str) and kind not in DTYPES:
                raise LookupError(kind)
            dtype = DTYPES[kind]
            whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in [*shape, start, end])
            whole = whole and math.prod(n or 1 for n in shape) < 2**48  # strides are counted without the zeros
            if not whole or len(shape) > 8 or end - start != math.prod(shape) * dtype.itemsize:
                raise ValueError("sizes do not agree")
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"was altered: its header's description of {name[:80]!r} makes no sense") from None
        except LookupError as error:
            raise ValueError(
                f"holds {name[:80]!r} in the dtype {str(error.args[0])[:20]!r}, and these are read: {', '.join(DTYPES)}"
            ) from None
        found.append((start, end, name, Entry(dtype, tuple(shape), end - start)))
    at = 0
    for start, end, name, _ in sorted(found, key=lambda e: e[:2]):
        if start != at:
            raise ValueError(f"was altered: the tensor {name[:80]!r} begins at byte {start} and not at {at}")
        at = end
    if at != room:
        what = "is truncated" if room < at else "has bytes behind its end"
        raise ValueError(f"{what}: its header promises {at} bytes of data, and {room} are there")
    return {name: entry for _, _, name, entry in sorted(found, key=lambda e: e[:2])}
