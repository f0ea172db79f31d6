"""Learned strided pooling: c = sum_i w_i * x_i, a weight for each place in the block and each channel.

A depthwise convolution whose stride is its length; it begins as the mean. Source: arXiv 1911.05507, section 3.1 (1D
convolution over leaving activations), kept to one weight a channel. State: none of its own (up to rate - 1 tokens wait in
the layer).
Cost: D.

For: blocks in which the place says what matters.
Can: weigh each place, a channel at a time, with either sign.
Cannot: look at the content: what matters must always stand at the same place.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from .base import Compress


class Conv(Compress):
    """taps [rate, D], 1 / rate to begin with."""

    name: ClassVar[str] = "conv"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.taps = nn.Parameter(torch.full((cfg.rate, cfg.d_model), 1 / cfg.rate))

    def forward(self, x: Tensor, recent: Tensor | None = None) -> Tensor:
        """[R, M, rate, D] -> [R, M, D]."""
        return (x * self.taps.to(x.dtype)).sum(2)
