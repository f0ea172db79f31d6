"""Rotary positions for any length.

Frequencies are integer multiples of 2^-31 turns per token, so the angle at a position is an exact integer product:
it has the same precision at position 10,000,000,000 as at 1, and depends only on differences of positions.

Source: arXiv 2104.09864 (rotation by pairs); pairs are (i, i + K/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .rope_scaling import Scaling

TURN = 1 << 31


@dataclass(frozen=True)
class Base:
    """What frequencies are made of: theta, and how they are changed."""

    theta: float = 10000.0
    scaling: Scaling | None = None

    @property
    def gain(self) -> float:
        """By what logits are multiplied: cosines and sines of both queries and keys would be scaled by its square root."""
        return 1.0 if self.scaling is None else self.scaling.attention_factor**2


PLAIN = Base()


@lru_cache(maxsize=64)
def frequencies(width: int, base: Base = PLAIN) -> np.ndarray:
    """int64 [width/2], in 2^-31 turns per token: round(theta^(-2i/width) / (2 pi) * 2^31), or that of the scaled frequencies."""
    radians = base.theta ** (-np.arange(0, width, 2) / width)
    if base.scaling is not None:
        radians = base.scaling.scaled(radians, base.theta)
    found = np.round(radians / (2 * math.pi) * TURN).astype(np.int64)
    found.flags.writeable = False  # all callers share this array
    return found


def rotate(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """x [R, T, H, K] = (a, b) rotated to (a cos - b sin, b cos + a sin), by a `rotation` [R or 1, T, K]."""
    cos, sin = by[0].unsqueeze(-2), by[1].unsqueeze(-2)
    a, b = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([b, a], -1), sin)


_known: dict[tuple[int, Base, torch.device], Tensor] = {}


def whole(width: int, base: Base, device: torch.device) -> Tensor:
    """`frequencies` as a tensor, made once: a compiler then finds it among the globals."""
    if (width, base, device) not in _known:
        with torch.inference_mode(False):
            _known[width, base, device] = torch.from_numpy(frequencies(width, base).copy()).to(device)
    return _known[width, base, device]


def turned(
    position: Tensor, width: int, dtype: torch.dtype, base: Base = PLAIN, kind: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """(cos, cos) and (-sin, sin), each [..., width], at int64 positions [...], in tensors alone.

    The angle is a whole number of 2^-31 turns before it is rounded, to `kind` (None: `dtype`, or float32 if that is wider).
    """
    turns = (position.remainder(TURN).unsqueeze(-1) * whole(width, base, position.device)).remainder(TURN)
    kind = torch.promote_types(dtype, torch.float32) if kind is None else kind
    angle = torch.where(turns >= TURN // 2, turns - TURN, turns).to(kind) * (2 * math.pi / TURN)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def rotation(
    positions: np.ndarray, width: int, dtype: torch.dtype, device: torch.device, base: Base = PLAIN
) -> tuple[Tensor, Tensor]:
    """`turned` at positions that the host knows, with angles in float64."""
    cos, sin = turned(torch.from_numpy(positions), width, dtype, base, torch.float64)
    return cos.to(device), sin.to(device)
