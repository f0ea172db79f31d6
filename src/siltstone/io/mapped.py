"""Memory in a file without a name: the system may move it to the disk, and it is gone when nobody uses it any more."""

from __future__ import annotations

import math
import mmap
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import StorageError
from . import system
from .regular import reason


def mapped(shape: Sequence[int], dtype: torch.dtype, folder: Path) -> Tensor:
    """Zeros of this shape in a memory-mapped file in `folder`. Raises StorageError if there is no such folder or no space."""
    size, path = math.prod(shape) * dtype.itemsize, folder / f".pages.{secrets.token_hex(6)}.tmp"
    if not size:
        return torch.zeros(tuple(shape), dtype=dtype, device="cpu")
    try:
        handle = system.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | system.NO_LINK)
        try:
            system.unlink(path)
            system.allocate(handle, size)  # now: a full disk would end the process at the first write
            memory = mmap.mmap(handle, size)
        finally:
            system.close(handle)
    except OSError as error:
        why = f"{size:,} bytes cannot be mapped in {folder}: {reason(error)}"
        raise StorageError(f"{why}; free space there, or give another folder") from error
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))
