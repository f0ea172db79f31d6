"""Queries, keys and values of exact attention, with keys and values that heads may share.

    q [H, K], k [J, K], v [J, V] = x W;  qk_norm: q and k over their root mean square, times a learned weight [K]
    head h of the queries looks at keys and values of head h // (H / J)

Source: arXiv 2305.13245 (shared keys and values), arXiv 2010.04245 (normalised queries and keys).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops.norm import rms
from ..ops.transforms import at_work
from ..ops.widely import Placed


class Heads(Placed):
    """x [R, T, D] -> queries and keys [R, T, H + J, K], not yet rotated, and values [R, T, J, V]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.cfg = cfg
        self.qkv = nn.Linear(cfg.d_model, sum(self._widths), bias=False)
        self.q_norm = nn.Parameter(torch.ones(cfg.key_dim)) if cfg.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(cfg.key_dim)) if cfg.qk_norm else None

    @property
    def _widths(self) -> list[int]:
        cfg = self.cfg
        return [(cfg.heads + cfg.key_heads) * cfg.key_dim, cfg.key_heads * cfg.val_dim]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        cfg = self.cfg
        asked, v = self.qkv(x).split(self._widths, -1)
        asked, v = asked.unflatten(-1, (-1, cfg.key_dim)), v.unflatten(-1, (-1, cfg.val_dim))
        if self.q_norm is not None and self.k_norm is not None:
            asked = rms(asked, torch.cat([self.q_norm.expand(cfg.heads, -1), self.k_norm.expand(cfg.key_heads, -1)]), 1e-6)
        return asked, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """softmax(q k^T / sqrt(K) + mask) v: q [R, H, Q, K], k [R, J, N, K], v [R, J, N, V] -> [R, H, Q, V]."""
        shared = self.cfg.key_heads != self.cfg.heads
        scale = self.cfg.key_dim**-0.5
        if at_work():
            return plainly(q, k, v, mask, causal, scale)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=shared)
        return Twice.apply(out, q, k, v, mask, causal, scale) if out.requires_grad else out


def plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """What `Heads.attend` gives, in parts that have derivatives of any order and kind."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) if group > 1 else x for x in (k, v))
    scores = (q @ k.transpose(-1, -2)) * scale
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


class Twice(torch.autograd.Function):
    """What fused attention gave, `out`. Its backward pass cannot be differentiated: where that is asked for, `plainly`'s runs."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, *inputs: Any) -> Tensor:  # type: ignore[override]
        """out."""
        q, k, v, mask, *ctx.rest = inputs
        ctx.save_for_backward(q, k, v, mask)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """The gradient of `out`, or in its place those of q, k and v."""
        if not torch.is_grad_enabled():
            return grad, *[None] * 6
        q, k, v, mask = ctx.saved_tensors
        given = [x for x, needed in zip((q, k, v), ctx.needs_input_grad[1:4], strict=True) if needed]
        found = iter(torch.autograd.grad(plainly(q, k, v, mask, *ctx.rest), given, grad, create_graph=True))
        return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:4]), None, None, None
