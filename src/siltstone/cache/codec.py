"""How checkpoints are kept: as the state is, in bfloat16, or in int8 with one scale a row.

int8: code = round(w / s), s = max|w| / 127 over a row, so that |w - s code| <= s / 2: at most 1/254 of the row's largest
value, and as much again at every merge.
Packed leaves are tensors [B, H, N, in, out], for int8 codes followed by their scales [B, H, N, in, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

Leaves = tuple[Tensor, ...]


def pack(kind: str, stages: Leaves) -> Leaves:
    """Matrices of each stage -> what is kept of them."""
    if kind == "bfloat16":
        return tuple(x.to(torch.bfloat16) for x in stages)
    return tuple(part for x in stages for part in _codes(x)) if kind == "int8" else stages


def unpack(leaves: Leaves, dtype: torch.dtype = torch.float32) -> Leaves:
    """The matrices again, as near as they were kept; those in bfloat16 become `dtype`."""
    if leaves[0].dtype == torch.int8:
        return tuple(code * scale for code, scale in zip(leaves[::2], leaves[1::2], strict=True))
    return tuple(x.to(dtype) for x in leaves) if leaves[0].dtype == torch.bfloat16 else leaves


def rounded(kind: str, stages: Leaves) -> Leaves:
    """`unpack(pack(...))`, with gradients as if nothing was rounded."""
    if kind == "float32":
        return stages
    return tuple(x + (y.to(x.dtype) - x).detach() for x, y in zip(stages, unpack(pack(kind, stages)), strict=True))


def _codes(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = (x.detach().abs().amax(-1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (x.detach() / scale).round().to(torch.int8), scale
