"""Queries, keys and values of exact attention; heads may share keys and values.

    q [H, K], k [J, K], v [J, V] = x W (+ b)
    qk_norm: q and k over their root mean square, times learned weights; in each head (weights [K]), or with `all` over all
    heads of q and over all of k (weights [H * K] and [J * K])
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
from .linear import linear


class Heads(Placed):
    """x [R, T, D] -> queries and keys [R, T, H + J, K], not yet rotated, and values [R, T, J, V]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.cfg = cfg
        self.qkv = linear(cfg.d_model, sum(self._widths), cfg.qkv_bias)
        heads = (cfg.heads, cfg.key_heads) if cfg.qk_norm == "all" else (1, 1)
        self.q_norm, self.k_norm = (nn.Parameter(torch.ones(n * cfg.key_dim)) if cfg.qk_norm else None for n in heads)

    @property
    def _widths(self) -> list[int]:
        cfg = self.cfg
        return [(cfg.heads + cfg.key_heads) * cfg.key_dim, cfg.key_heads * cfg.val_dim]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        cfg = self.cfg
        asked, v = self.qkv(x).split(self._widths, -1)
        if self.q_norm is not None and self.k_norm is not None and cfg.qk_norm == "all":
            q, k = asked.split([cfg.heads * cfg.key_dim, cfg.key_heads * cfg.key_dim], -1)
            asked = torch.cat([rms(q, self.q_norm, cfg.qk_norm_eps), rms(k, self.k_norm, cfg.qk_norm_eps)], -1)
        asked, v = asked.unflatten(-1, (-1, cfg.key_dim)), v.unflatten(-1, (-1, cfg.val_dim))
        if self.q_norm is not None and self.k_norm is not None and cfg.qk_norm != "all":
            weight = torch.cat([self.q_norm.expand(cfg.heads, -1), self.k_norm.expand(cfg.key_heads, -1)])
            asked = rms(asked, weight, cfg.qk_norm_eps)
        return asked, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """softmax(scale q k^T + mask) v: q [R, H, Q, K], k [R, J, N, K], v [R, J, N, V] -> [R, H, Q, V]."""
        return attention.attend(q, k, v, mask, causal, self.cfg.scale)
