"""Memory in a file that has no name: the system may write it to disk, and it is gone when nobody uses it any more."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import StorageError
from .regular import reason


def mapped(shape: Sequence[int], dtype: torch.dtype, folder: Path) -> Tensor:
    """Zeros of this shape in a memory-mapped file in `folder`. Raises StorageError if there is no such folder or no space."""
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.zeros(tuple(shape), dtype=dtype, device="cpu")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # unlinked at once
            if hasattr(os, "posix_fallocate"):  # without it, a full disk would end the process at the first write
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise StorageError(
            f"{size:,} bytes cannot be mapped in {folder}: {why}; free some space, or give another folder"
        ) from error
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))
