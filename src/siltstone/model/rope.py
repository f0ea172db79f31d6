"""Rotary positions that never run out.

Frequencies are whole numbers of 2^-31 turns a token, so that the angle at a position is an exact integer product:
it is as precise at position 10,000,000,000 as at 1, and depends on differences of positions alone.

Source: arXiv 2104.09864 (rotation by pairs); pairs are (i, i + K/2).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TURN = 1 << 31


def frequencies(width: int, theta: float = 10000.0) -> np.ndarray:
    """int64 [width/2], in 2^-31 turns a token: round(theta^(-2i/width) / (2 pi) * 2^31)."""
    return np.round(theta ** (-np.arange(0, width, 2) / width) / (2 * math.pi) * TURN).astype(np.int64)


def rotation(positions: np.ndarray, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [..., width/2] at integer positions [...]."""
    turns = (positions[..., None] % TURN * frequencies(width)) % TURN
    angle = torch.from_numpy(turns * (2 * math.pi / TURN))
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """x [R, T, H, K] turned by cos, sin [R or 1, T, K/2]."""
    cos, sin = by[0].unsqueeze(-2), by[1].unsqueeze(-2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
