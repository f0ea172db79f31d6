"""Memory in a file without a name."""

from __future__ import annotations

import errno
import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from siltstone.errors import StorageError
from siltstone.io import system
from siltstone.io.mapped import mapped


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float64])
def test_zeros_that_can_be_written(dtype: torch.dtype, tmp_path: Path) -> None:
    x = mapped((2, 3, 5), dtype, tmp_path)
    assert x.shape == (2, 3, 5) and x.dtype == dtype and not x.any() and not [*tmp_path.iterdir()]
    part = x[1].copy_(torch.arange(15).view(3, 5))
    del x
    gc.collect()
    assert part.flatten().tolist() == [*range(15)]  # the file lives as long as any of its tensors
    assert mapped((2, 0), dtype, tmp_path).shape == (2, 0)


@pytest.mark.parametrize("name", ["open", "unlink", "allocate"])
def test_a_full_disk_is_said_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(system, name, fails)
    with pytest.raises(StorageError, match="1,200 bytes cannot be mapped in .*: No space left on device; free space there"):
        mapped((300,), torch.float32, tmp_path)
