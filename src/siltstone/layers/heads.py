"""Queries, keys and values of exact attention; heads may share keys and values.

    q [H, K], k [J, K], v [J, V] = x W;  qk_norm: q and k over their root mean square, times a learned weight [K]
    query head h attends to keys and values of head h // (H / J)

Source: arXiv 2305.13245 (shared keys and values), arXiv 2010.04245 (normalised queries and keys).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import attention
from ..ops.norm import rms
from ..ops.upcast import Placed


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
        return attention.attend(q, k, v, mask, causal, self.cfg.key_dim**-0.5)
