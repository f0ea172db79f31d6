"""Normalisations, written as a few large operations to keep decode steps fast.

Source: arXiv 1910.07467, eq. 4 (RMSNorm).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .upcast import HALF


def l2(z: Tensor) -> Tensor:
    """z / |z| over the last axis, smooth at 0: z * rsqrt(sum z^2 + 1e-6)."""
    return _scaled(z, 1.0, 1e-6)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x * rsqrt(mean x^2 + eps) * weight over the last axis; the mean is computed in float32 or wider."""
    return _scaled(x, 1 / x.shape[-1], eps) * weight.to(x.dtype)


def _scaled(x: Tensor, share: float, eps: float) -> Tensor:
    return Scaled.apply(x, share, eps) if torch.is_grad_enabled() else x * _inverse(x, share, eps).to(x.dtype)


def _inverse(x: Tensor, share: float, eps: float) -> Tensor:
    """rsqrt(share |x|^2 + eps), [..., 1], in float32 or wider."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32 if x.dtype in HALF else None)
    return torch.addcmul(length.new_full((), eps), length, length, value=share).rsqrt()


class Scaled(torch.autograd.Function):
    """y = s x with s = rsqrt(share |x|^2 + eps). Its Jacobian, s (1 - share y y^T), is symmetric: one formula for both modes.

    Only x is kept, and the formula consists of differentiable operations, so that it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, share: float, eps: float) -> Tensor:  # type: ignore[override]
        """[..., n] -> [..., n]."""
        return x * _inverse(x, share, eps).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keeps x."""
        x, ctx.share, ctx.eps = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """See the class."""
        return Scaled._along(ctx, grad), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        """See the class."""
        return Scaled._along(ctx, tangent)

    @staticmethod
    def _along(ctx: Any, move: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        scale = _inverse(x, ctx.share, ctx.eps)
        wide = move.to(scale.dtype)
        y = x * scale
        along = torch.linalg.vecdot(wide, y).unsqueeze(-1)
        return (torch.addcmul(wide, y, along, value=-ctx.share) * scale).to(x.dtype)


class RMSNorm(nn.Module):
    """`rms` with a learned weight, initially 1."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return rms(x, self.weight, self.eps)
