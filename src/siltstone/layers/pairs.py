"""cache="gated" with cache_options exact=n: the n pairs of key and value with the largest b |v - M(k)|, beside the checkpoints.

    y = W_o (window(x) + norm(read(M, bank)) + norm'(sum_n softmax_n(exp(s_h) <q, k_n>) v_n))

k, v, q and b are the memory's: b is its beta, 1 for rules without one. M is the memory just before the write, which begins anew
with its segment. The choice is one for all heads, by the sum of (b |v - M(k)|)^2 over them; it carries no gradient, and ties go
to the most recent write. norm' is an RMSNorm of its own, and a pair has no position. Source: arXiv 2607.02303.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cache.exact import Kept
from ..config.layer import LayerConfig
from ..memory.base import Inputs, Memory
from ..ops.norm import rms
from ..ops.upcast import upcast


class Pairs(nn.Module):
    """The read of kept pairs for memory queries [R, T, H, in]: [R, T, H, V]."""

    def __init__(self, cfg: LayerConfig, number: int):
        super().__init__()
        self.number, self.value = number, cfg.val_dim
        self.norm = nn.Parameter(torch.ones(cfg.heads, cfg.val_dim))
        self.log_scale = nn.Parameter(torch.full((cfg.heads,), -math.log(cfg.temperature)))

    def empty(self, memory: Memory, batch: int, like: Tensor) -> Kept:
        """A state without pairs; `like`: a parameter that sets dtype and device."""
        heads, width = memory.read_factors(memory.init(1))[0].shape[1:3]
        return Kept(
            upcast(like.new_zeros(batch, self.number)) - torch.inf,
            torch.full((batch, self.number), -1, device=like.device),
            like.new_zeros(batch, self.number, 1, heads, width),
            like.new_zeros(batch, self.number, 1, heads, self.value),
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        """key [R, n, H, N, in] and value [R, n, H, N, V] of n blocks of queries; seen bool [R, n, Q, N]."""
        tokens, (n, block) = query.shape[1], seen.shape[1:3]
        z = F.pad(query, (0, 0, 0, 0, 0, n * block - tokens)).unflatten(1, (n, block)).transpose(2, 3)
        logits = (z @ key.to(z.dtype).transpose(-1, -2)) * self.log_scale.exp().to(z.dtype).view(-1, 1, 1)
        there = seen.unsqueeze(2)
        shares = logits.masked_fill(~there, torch.finfo(z.dtype).min).softmax(-1) * there.to(z.dtype)
        out = (shares @ value.to(z.dtype)).transpose(2, 3).flatten(1, 2)[:, :tokens]
        return rms(out, self.norm, 1e-6)

    def now(self, query: Tensor, kept: Kept) -> Tensor:
        """The read of one token a row, query [B, 1, H, in]."""
        key, value = (x.squeeze(2).transpose(1, 2).unsqueeze(1) for x in (kept.key, kept.value))
        return self(query, key, value, (kept.surprise > -torch.inf)[:, None, None])


def pair(memory: Memory, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """What a write keeps: key [..., 1, H, in] and value [..., 1, H, V]."""
    found = memory.predicted(inputs)
    assert found is not None
    return found[0].unsqueeze(-3), found[1].unsqueeze(-3)
