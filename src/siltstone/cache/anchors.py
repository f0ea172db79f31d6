"""Routing keys that learnt anchor tokens read from a state: k_nj = l2(W_r M_n(q(a_j))), for anchors a_j [D], j = 1 .. m.

router = "anchor:m": M_n(q(a_j)) is what the memory answers to the query of an anchor, all heads together [H * V]. The score of a
checkpoint is log sum_j exp(8 <u, k_nj>) / 8, a smooth maximum over its m keys. The keys are read once, when the state is sealed,
before it is rounded. With softmax gates, the online memory has the keys of its state at the token.
Source: arXiv 2608.12435 (anchor tokens that read a state make the keys by which it is found); the smooth maximum is ours.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..memory.base import Memory
from ..schedule.segments import Segments
from .base import Router


class AnchorRouter(Router):
    """J = m keys a state, read by `anchor` [m, D]; W_r has the width of the read, H * V."""

    summed: ClassVar[bool] = False

    def __init__(self, cfg: LayerConfig, shares_routing: bool = False):
        super().__init__(cfg, shares_routing)
        self.blocks, self.spread = cfg.anchors, 1.0
        if not shares_routing:
            self.anchor = nn.Parameter(torch.randn(cfg.anchors, cfg.d_model))

    @classmethod
    def key_width(cls, cfg: LayerConfig) -> int:
        """See Router."""
        return cfg.heads * cfg.val_dim

    def asked(self, memory: Memory) -> Tensor:
        """The queries of the anchors, [H, m, in]."""
        return memory.queries(self.anchor.unsqueeze(0))[0].transpose(0, 1)

    def read(self, memory: Memory, factors: tuple[Tensor, ...]) -> Tensor:
        """The keys of states with read factors [..., H, in, out]: [..., m, U]."""
        query = out = self.asked(memory)
        for i, matrices in enumerate(factors):
            out = memory.activation(i, out @ matrices.to(query.dtype), query)
        return self.keys(out.transpose(-3, -2).flatten(-2).to(self.anchor.dtype)).to(factors[0].dtype)

    def writes(self, segments: Segments, number: np.ndarray) -> np.ndarray:
        """See Router: a key stands for a state."""
        return np.ones((*number.shape, self.blocks), np.int64)

    def empty(self, segments: Segments, number: int) -> np.ndarray | None:
        """See Router: every state has all keys."""
        return None


def router(cfg: LayerConfig, shares_routing: bool) -> Router:
    """The router of a layer."""
    return (AnchorRouter if cfg.anchors else Router)(cfg, shares_routing)
