"""Learned strided pooling: c = sum_i w_i * x_i, one weight for each place in the block and each channel.

A depthwise convolution whose stride is its length; it is initialised to the mean. Source: arXiv 1911.05507, section 3.1 (1D
convolution over leaving activations), reduced to one weight per channel. State: none of its own (the layer holds up to
rate - 1 tokens).
Cost: D.

For: blocks in which a token's place decides its importance.
Can: weigh each place, per channel, with either sign.
Cannot: use the content: important tokens must always be at the same place.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from .base import Compress


class Conv(Compress):
    """taps [rate, D], initially 1 / rate."""

    name: ClassVar[str] = "conv"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.taps = nn.Parameter(torch.full((cfg.rate, cfg.d_model), 1 / cfg.rate))

    def forward(self, x: Tensor, recent: Tensor | None = None) -> Tensor:
        """[R, M, rate, D] -> [R, M, D]."""
        return (x * self.taps.to(x.dtype)).sum(2)
