"""Mean pooling: c = (x_1 + ... + x_r) / r.

Source: arXiv 1911.05507, section 3.1 (mean pooling of leaving activations). State: none of its own (the layer holds up to
rate - 1 tokens).
Cost: D additions.

For: fewer writes at almost no cost, without parameters.
Can: keep what the tokens of a block have in common.
Cannot: distinguish the tokens of a block, by place or by content.
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
