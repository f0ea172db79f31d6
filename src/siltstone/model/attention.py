"""Full causal attention with a growing key-value cache: the transformer's layer, for hybrids and for comparison.

Source: arXiv 1706.03762, eq. 1; rotary positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LayerConfig
from ..state import State, Store
from . import rope
from .context import Context
from .plan import Geometry

PLAIN = Geometry(window=1, sinks=0, delay=1, rate=1)


@dataclass
class AttentionState(State):
    """cache: key [B, H, N, K] (rotated) and value [B, H, N, V] of every token so far."""

    cache: Store


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K)) v over all tokens so far. x [R, T, D] -> y [R, T, D]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.cfg = cfg
        self.widths = [cfg.heads * cfg.key_dim, cfg.heads * cfg.key_dim, cfg.heads * cfg.val_dim]
        self.window = nn.ModuleDict({"qkv": nn.Linear(cfg.d_model, sum(self.widths), bias=False)})
        self.out = nn.Linear(cfg.heads * cfg.val_dim, cfg.d_model, bias=False)

    def init(self, batch: int) -> AttentionState:
        """An empty cache."""
        cfg, like = self.cfg, self.out.weight
        key = like.new_zeros(batch, cfg.heads, 0, cfg.key_dim)
        return AttentionState(Store.empty((key, like.new_zeros(batch, cfg.heads, 0, cfg.val_dim)), (2, 2)))

    def forward(self, x: Tensor, state: AttentionState, context: Context) -> tuple[Tensor, AttentionState]:
        """One call over runs."""
        cfg, runs = self.cfg, context.runs
        q, k, v = (z.unflatten(-1, (cfg.heads, -1)) for z in self.window["qkv"](x).split(self.widths, -1))
        if cfg.position == "rope":
            turn = context.window(PLAIN, x.dtype).angles(cfg.key_dim)
            q, k = rope.rotate(q, turn), rope.rotate(k, turn)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        before = state.cache
        after = before.append((k, v), runs.length)
        pos = runs.clock.position
        level = bool((before.count == before.count[:1]).all())
        scale = cfg.key_dim**-0.5
        if level and runs.width == 1 and (runs.length == 1).all():
            keys, values = after.views()
            out = F.scaled_dot_product_attention(q, keys, values, scale=scale)
        elif level and not before.width:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        else:
            past = before.width
            keys, values = (torch.cat([c, n.to(c.dtype)], 2) for c, n in zip(before.views(), (k, v), strict=True))
            i = np.arange(runs.width)
            old = np.broadcast_to(np.arange(past)[None, None] < before.count[:, None, None], (len(pos), runs.width, past))
            new = np.broadcast_to((i[None] <= i[:, None])[None], (len(pos), runs.width, runs.width))
            sees = torch.from_numpy(np.concatenate([old, new], -1)).to(x.device)
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=sees.unsqueeze(1), scale=scale)
        return self.out(out.transpose(1, 2).flatten(2)), AttentionState(after)
