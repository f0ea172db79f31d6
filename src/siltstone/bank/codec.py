"""How checkpoints are stored: in the state's dtype, in bfloat16, or in int8 with one scale per row.

int8: code = round(w / s), s = max|w| / 127 over a row, so that |w - s code| <= s / 2: at most 1/254 of the row's largest
value, and the same again at every merge. Columns that divide the others (`Memory.normalizer`, the last of a matrix) would
dominate the scale of their rows; they have their own scales and are stored exactly.
Packed leaves are tensors [B, H, N, in, out]; for int8, codes followed by their scales [B, H, N, in, 1 + normalizer].
"""

from __future__ import annotations

import torch
from torch import Tensor

Leaves = tuple[Tensor, ...]


def pack(kind: str, factors: Leaves, normalizer: int = 0) -> Leaves:
    """Matrices of each read factor -> packed leaves."""
    if kind == "bfloat16":
        return tuple(x.to(torch.bfloat16) for x in factors)
    return tuple(part for x in factors for part in _codes(x, normalizer)) if kind == "int8" else factors


def unpack(leaves: Leaves, dtype: torch.dtype = torch.float32) -> Leaves:
    """Packed leaves -> matrices, up to rounding; those in bfloat16 become `dtype`."""
    if leaves[0].dtype == torch.int8:
        return tuple(_matrix(code, scale) for code, scale in zip(leaves[::2], leaves[1::2], strict=True))
    return tuple(x.to(dtype) for x in leaves) if leaves[0].dtype == torch.bfloat16 else leaves


def rounded(kind: str, factors: Leaves, normalizer: int = 0) -> Leaves:
    """`unpack(pack(...))`, with gradients as if nothing were rounded."""
    if kind == "float32":
        return factors
    found = unpack(pack(kind, factors, normalizer))
    return tuple(x + (y.to(x.dtype) - x).detach() for x, y in zip(factors, found, strict=True))


def _codes(x: Tensor, normalizer: int) -> tuple[Tensor, Tensor]:
    x, columns = x.detach(), x.shape[-1] - normalizer
    largest = torch.cat([x[..., :columns].abs().amax(-1, keepdim=True), x[..., columns:].abs()], -1)
    scale = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / _spread(scale, x.shape[-1])).round().to(torch.int8), scale


def _matrix(code: Tensor, scale: Tensor) -> Tensor:
    return code * _spread(scale, code.shape[-1])


def _spread(scale: Tensor, columns: int) -> Tensor:
    """The scale of each column [..., columns]; the first of `scale` applies to all columns without their own."""
    own = scale.shape[-1] - 1
    return torch.cat([scale[..., :1].expand(*scale.shape[:-1], columns - own), scale[..., 1:]], -1) if own else scale
