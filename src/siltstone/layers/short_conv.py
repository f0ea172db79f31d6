"""A short causal convolution over a layer's input: x~_t = x_t + sum_{i < width} a_i * x_{t-i}, one weight per channel.

The whole layer uses x~ instead of x. The weights a_1 of the previous token are initialised to N(0, 1/4), the others to 0: the
layer can then distinguish the two tokens by their channels and learn to bind one to the other. Before a row's first token the
inputs are zeros.
Source: arXiv 2212.14052 (shift convolutions before a recurrence), here shared by all projections, with a residual.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..schedule.packed import PackedBatch
from ..schedule.step import keep
from .context import StepContext


class ShortConv(nn.Module):
    """x [R, T, D] -> x~ [R, T, D]; with width 0, x itself. State: the last width - 1 inputs, in order of time."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.width, self.d_model = cfg.short_conv, cfg.d_model
        self.taps: nn.Parameter | None = None
        if self.width:
            self.taps = nn.Parameter(torch.zeros(self.width, self.d_model))
            nn.init.normal_(self.taps.data[1], std=0.5)

    def init(self, batch: int) -> Tensor | None:
        """[batch, width - 1, D]: zeros before the first token."""
        return None if self.taps is None else self.taps.new_zeros(batch, self.width - 1, self.d_model)

    def step(self, x: Tensor, before: Tensor | None, context: StepContext) -> tuple[Tensor, Tensor | None]:
        """One token of each row, x [B, 1, D]."""
        if self.taps is None or before is None:
            return x, None
        both = torch.cat([before, x.to(before.dtype)], 1)
        out = x + (both.flip(1).to(x.dtype) * self.taps.to(x.dtype)).sum(1, keepdim=True)
        return out, keep(context.active, both[:, 1:], before)

    def forward(self, x: Tensor, before: Tensor | None, packed: PackedBatch) -> tuple[Tensor, Tensor | None]:
        """One call over runs."""
        if self.taps is None or before is None:
            return x, None
        tokens, history = x.shape[1], self.width - 1
        both = torch.cat([before, x.to(before.dtype)], 1)
        out = x
        for i, tap in enumerate(self.taps.to(x.dtype)):
            out = torch.addcmul(out, both.narrow(1, history - i, tokens).to(x.dtype), tap)
        if packed.take is None:  # runs are whole
            return out, both[:, tokens:].clone()
        last = packed.length[:, None] + np.arange(history) + np.arange(len(x))[:, None] * both.shape[1]
        index = torch.from_numpy(last.reshape(-1)).to(x.device)
        return out, both.flatten(0, 1).index_select(0, index).unflatten(0, (len(x), history))
