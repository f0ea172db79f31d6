"""Normalisations, written so that a step of decoding has few and large operations.

Source: arXiv 1910.07467, eq. 4 (RMSNorm).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def l2(z: Tensor) -> Tensor:
    """z / |z| over the last axis, smooth at 0: z * rsqrt(sum z^2 + 1e-6)."""
    return _scaled(z, 1.0, 1e-6)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x * rsqrt(mean x^2 + eps) * weight over the last axis; the mean is taken in float32 at least."""
    return _scaled(x, 1 / x.shape[-1], eps) * weight.to(x.dtype)


def _scaled(x: Tensor, share: float, eps: float) -> Tensor:
    return Scaled.apply(x, share, eps) if torch.is_grad_enabled() else x * _inverse(x, share, eps).to(x.dtype)


def _inverse(x: Tensor, share: float, eps: float) -> Tensor:
    """rsqrt(share |x|^2 + eps), [..., 1]."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32 if x.dtype in HALF else None)
    return torch.addcmul(length.new_full((), eps), length, length, value=share).rsqrt_()


class Scaled(torch.autograd.Function):
    """y = s x with s = rsqrt(share |x|^2 + eps), and its gradient dx = s g - share s^3 (g x) x in few passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, eps: float) -> Tensor:  # type: ignore[override]
        """[..., n] -> [..., n]."""
        scale = _inverse(x, share, eps)
        ctx.save_for_backward(x, scale)
        ctx.share = share
        return x * scale.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """See the class."""
        x, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grad.to(scale.dtype), x.to(scale.dtype)).unsqueeze(-1)
        back = (along * scale.pow(3)).mul(-ctx.share).to(x.dtype)
        return torch.addcmul(grad * scale.to(x.dtype), x, back), None, None


class RMSNorm(nn.Module):
    """`rms` with a learned weight, 1 to begin with."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return rms(x, self.weight, self.eps)
