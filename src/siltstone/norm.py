"""Normalisations, written so that a step of decoding has few and large operations.

Source: arXiv 1910.07467, eq. 4 (RMSNorm).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def l2(z: Tensor) -> Tensor:
    """z / |z| over the last axis, smooth at 0: z * rsqrt(sum z^2 + 1e-6)."""
    return z * torch.rsqrt(_length(z).square() + 1e-6).to(z.dtype)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x * rsqrt(mean x^2 + eps) * weight over the last axis; the mean is taken in float32 at least."""
    scale = torch.rsqrt(_length(x).square() / x.shape[-1] + eps).to(x.dtype)
    return x * scale * weight.to(x.dtype)


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32 if x.dtype in HALF else None)


class RMSNorm(nn.Module):
    """`rms` with a learned weight, 1 to begin with."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return rms(x, self.weight, self.eps)
