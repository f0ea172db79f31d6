"""Mean pooling: c = (x_1 + ... + x_r) / r.

Source: arXiv 1911.05507, section 3.1 (mean pooling of leaving activations). State: none of its own (up to rate - 1 tokens
wait in the layer).
Cost: D additions.

For: fewer writes at no cost and without a weight to learn.
Can: keep what the tokens of a block share.
Cannot: tell the tokens of a block apart, by place or by content.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .base import Compress


class Mean(Compress):
    """The mean of a block."""

    name: ClassVar[str] = "mean"

    def forward(self, x: Tensor, recent: Tensor | None = None) -> Tensor:
        """[R, M, rate, D] -> [R, M, D]."""
        return x.mean(2)
