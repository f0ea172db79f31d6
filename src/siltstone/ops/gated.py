"""Gated linear memory: S_t = a_t S_{t-1} + b_t k_t^T v_t, o = q S.

a is one number per head (arXiv 2405.21060), or one per channel of the keys (arXiv 2312.06635, eq. 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chunked import ChunkRead, additive, chunks, length, masked, outer

CHANNELS = 16  # writes per chunk with decay="channel": powers of a decay and of its inverse fit float32 (e^5 per write)


def step(matrix: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """One write into S [..., H, K, V]: key [..., H, K], value [..., H, V], log a [..., H] or [..., H, K], b [..., H]."""
    new = outer(key, value * beta.unsqueeze(-1).to(value.dtype))
    a = log_decay.exp().unsqueeze(-1)
    return torch.addcmul(new, a if log_decay.dim() == key.dim() else a.unsqueeze(-1), matrix)


def chunk(
    matrix: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, valid: Tensor | None = None, size: int = 64
) -> tuple[ChunkRead, Tensor]:
    """`step` for [G, S, L, H, ...] each: see `chunked.additive`. Decays per channel: at least e^-5, chunks of `CHANNELS`."""
    c = length(key.shape[2], size)
    key = key * masked(beta, valid).unsqueeze(-1).to(key.dtype)
    total = chunks(masked(log_decay, valid), c).cumsum(4)
    return additive(chunks(key, c), chunks(value, c), total, matrix)
