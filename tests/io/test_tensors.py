"""safetensors files: what is written is what is read, by the public reader too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from siltstone.io import read_tensors, write_tensors

TENSORS = {
    "f32": torch.linspace(-1, 1, 12).reshape(3, 4),
    "turned": torch.arange(12.0).reshape(3, 4).T,
    "bf16": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "f64": torch.tensor(0.1, dtype=torch.float64),
    "i64": torch.tensor([-(2**40), 3]),
    "bool": torch.tensor([[True, False]]),
    "u8": torch.arange(7, dtype=torch.uint8),
    "none": torch.zeros(2, 0, 3),
}


def test_round_trip(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", TENSORS, {"b": "two", "a": "é"})
    tensors, metadata = read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"a": "é", "b": "two"}
    public = load_file(tmp_path / "t.safetensors")
    assert tensors.keys() == public.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        for read in (tensors[name], public[name]):
            assert read.dtype == value.dtype
            assert read.shape == value.shape
            assert torch.equal(read, value)
        assert tensors[name].data_ptr() % 64 == 0 or value.numel() == 0


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS, {"x": "1", "y": "2"})
    write_tensors(tmp_path / "b", dict(reversed(TENSORS.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_truncated_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_tensors(path, {"a": torch.arange(20), "b": torch.ones(3)}, {"x": "1"})
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 100)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated, altered or not a safetensors file"):
            read_tensors(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "missing")
