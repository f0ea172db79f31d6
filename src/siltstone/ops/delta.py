"""Delta rule: S_t = (I - b_t k_t^T k_t) S_{t-1} + b_t k_t^T v_t, o = q S, with unit keys. Source: arXiv 2406.06484, eq. 4."""

from __future__ import annotations

import torch
from torch import Tensor

from . import gated_delta


def step(matrix: Tensor, key: Tensor, value: Tensor, beta: Tensor) -> Tensor:
    """One write into S [..., H, K, V], eq. 4 as S <- S + b k^T (v - k S): key [..., H, K], value [..., H, V], b [..., H]."""
    return gated_delta.replace(matrix, key, value, beta)


def chunk(
    matrix: Tensor, key: Tensor, value: Tensor, beta: Tensor, *, valid: Tensor | None = None, size: int = 64
) -> tuple[gated_delta.DeltaRead, Tensor]:
    """`step` for [G, S, L, H, ...] each: `gated_delta.chunk` with a = 1."""
    return gated_delta.chunk(matrix, key, value, torch.zeros_like(beta), beta, valid=valid, size=size)
