"""Softmax-gated pooling: c = sum_i g_i * x_i, g = softmax over the block of (x_i W_g + b_i), separately for each channel.

Source: arXiv 1709.04696 (multi-dimensional source-to-token attention), with a bias b_i per place and channel, so that order
inside a block matters. Initially close to the mean. State: none of its own (the layer holds up to rate - 1 tokens).
Cost: D * D + D.

For: blocks in which one or two tokens matter and can be recognised by their content.
Can: select by content and by place, per channel.
Cannot: leave the range of its tokens: each channel is a weighted mean with positive weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from .base import Compress


class GatedPool(Compress):
    """gate W_g [D, D], place b [rate, D]."""

    name: ClassVar[str] = "gated"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gate = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        self.place = nn.Parameter(torch.zeros(cfg.rate, cfg.d_model))

    def forward(self, x: Tensor, recent: Tensor | None = None) -> Tensor:
        """[R, M, rate, D] -> [R, M, D]."""
        gates = (self.gate(x) + self.place.to(x.dtype)).softmax(2)
        return (gates * x).sum(2)
