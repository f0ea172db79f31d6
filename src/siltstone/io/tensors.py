"""Writing of safetensors files, atomically and one tensor at a time (without a second copy of all tensors in memory).

The layout is the public one: an 8-byte little-endian length, a JSON header, the raw tensors. The same tensors and
metadata always give the same bytes. A sealed file has one more entry in its metadata: the SHA-256 of the whole file, computed
with the 64 digits of the checksum replaced by zeros, so that it covers every byte of the file.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .atomic import atomic_file
from .place import Stamp
from .tensor_file import DTYPES, ZEROS, open_tensors

SEAL = "file_sha256"  # name of the checksum in the metadata
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGN = 64


class _Hash:
    """A file that computes the hash of the data written to it and stores nothing else."""

    def __init__(self) -> None:
        self.total = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.total.update(data)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The elements of `tensor` in row-major order, little-endian, as bytes (copied only if needed)."""
    flat = tensor.data.to("cpu").contiguous().reshape(-1)  # not detach(): it fails after `half()` changed inference tensors
    return flat.view(torch.uint8).numpy().data


def dump_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file to an open binary `file`.

    tensors     name -> tensor, of any device and strides
    metadata    name -> text, stored under "__metadata__"
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(len(text) + 8) % _ALIGN)
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for name in names:
        file.write(tensor_bytes(tensors[name]))


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    expected: Stamp | None = None,
) -> Stamp | None:
    """Writes a safetensors file atomically; returns its stamp. For `expected` and errors see `atomic_file`."""
    with atomic_file(path, expected) as file:
        dump_tensors(file, tensors, metadata)
    return file.stamp


def write_sealed(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    seal: str = SEAL,
    expected: Stamp | None = None,
) -> Stamp | None:
    """The same, with the checksum of the whole file as `metadata[seal]`."""
    return write_tensors(path, tensors, sealed(tensors, metadata, seal), expected)


def dump_sealed(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], seal: str = SEAL) -> None:
    """The bytes that `write_sealed` writes, to an open file."""
    dump_tensors(file, tensors, sealed(tensors, metadata, seal))


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], seal: str) -> dict[str, str]:
    """The metadata with the checksum of the whole file."""
    sink: Any = _Hash()
    dump_tensors(sink, tensors, {**metadata, seal: ZEROS})
    return {**metadata, seal: sink.total.hexdigest()}


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU, copied) and the metadata of a safetensors file.

    Raises OSError if the file cannot be read, ValueError if it is truncated, altered (in its header; if it is sealed, anywhere)
    or not a safetensors file.
    """
    try:
        with open_tensors(path, seal=SEAL) as file:
            return file.read(), file.metadata
    except ValueError as error:
        raise ValueError(f"{path} is truncated, altered or not a safetensors file: it {error}") from error
