"""Exact attention: softmax(q k^T / sqrt(K) + bias) v; heads may share keys and values.

Source: arXiv 1706.03762, eq. 1; query head h attends to keys and values of head h // (H / J), arXiv 2305.13245.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import alibi
from .transforms import at_work

BLOCK = 512  # queries per block for which linear biases are materialised


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """softmax(scale q k^T + mask) v: q [R, H, Q, K], k [R, J, N, K], v [R, J, N, V] -> [R, H, Q, V].

    mask: biases, or bool, True where a key is visible.
    """
    if at_work():
        return plainly(q, k, v, mask, causal, scale)
    shared = k.shape[1] != q.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=shared)
    return Twice.apply(out, q, k, v, mask, causal, scale) if out.requires_grad else out


def plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """`attend` as elementary operations, which have derivatives of any order and mode."""
    group = q.shape[1] // k.shape[1]
    return masses(q, k, mask, scale, causal) @ (v.repeat_interleave(group, 1) if group > 1 else v)


def masses(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, causal: bool = False) -> Tensor:
    """softmax(scale q k^T + mask) [R, H, Q, N], as in `attend`."""
    group = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(group, 1) if group > 1 else k
    scores = (q @ k.transpose(-1, -2)) * scale
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


class Twice(torch.autograd.Function):
    """`out`, the result of fused attention. Its backward pass has no derivative: if one is needed, `plainly`'s pass runs."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, *inputs: Any) -> Tensor:  # type: ignore[override]
        """out."""
        q, k, v, mask, *ctx.rest = inputs
        ctx.save_for_backward(q, k, v, mask)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """The gradient of `out`, or instead those of q, k and v."""
        if not torch.is_grad_enabled():
            return grad, *[None] * 6
        q, k, v, mask = ctx.saved_tensors
        given = [x for x, needed in zip((q, k, v), ctx.needs_input_grad[1:4], strict=True) if needed]
        found = iter(torch.autograd.grad(plainly(q, k, v, mask, *ctx.rest), given, grad, create_graph=True))
        return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:4]), None, None, None


def earlier(start: np.ndarray, tokens: int, keys: Tensor) -> Tensor | None:
    """bool [R or 1, 1, T, N]: True for keys that are not after the query; start [R or 1]: positions of the first queries.

    None for one token of rows that are at the same position.
    """
    if tokens == 1 and len(start) == 1:
        return None
    query = start[:, None] + np.arange(tokens)
    return torch.from_numpy(np.arange(keys.shape[2]) <= query[..., None]).unsqueeze(1).to(keys.device)


def biased(q: Tensor, keys: Tensor, values: Tensor, start: np.ndarray, scale: float) -> Tensor:
    """Causal attention with linear biases, one block of queries at a time. start [R or 1]: positions of the first queries."""
    outs = []
    for first in range(0, q.shape[2], BLOCK):
        asked = q[:, :, first : first + BLOCK].flip(2)
        end = start + first + asked.shape[2]
        n = min(keys.shape[2], int(end.max(initial=0)))
        bias = alibi.backwards(end - 1, asked.shape[2], n, q.shape[1], q.dtype, q.device)
        outs.append(attend(asked, keys[:, :, :n], values[:, :, :n], bias, False, scale).flip(2))
    return torch.cat(outs, 2) if len(outs) > 1 else outs[0]
