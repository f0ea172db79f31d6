"""safetensors files, written atomically and one tensor at a time (no second copy of them all in memory).

The layout is the public one: an 8-byte little-endian length, a JSON header, the raw tensors. The same tensors and
metadata always give the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .atomic import atomic_file

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGN = 64


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The elements of `tensor` in row-major order, little-endian, as bytes (a copy only where one is needed)."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def dump_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file to an open binary `file`.

    tensors     name -> tensor, of any device and strides
    metadata    name -> text, kept under "__metadata__"
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


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file atomically. Raises StorageError where the system refuses."""
    with atomic_file(path) as file:
        dump_tensors(file, tensors, metadata)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU, in memory of their own) and the metadata of a safetensors file.

    Raises OSError when the file cannot be read, ValueError when it is truncated, altered in its header, or no
    safetensors file at all. Flipped bits inside the tensors are for the caller to find, by a hash in the metadata.
    """
    from safetensors import SafetensorError, safe_open

    Path(path).stat()
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, altered or not a safetensors file ({error})") from error
