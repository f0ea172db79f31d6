"""Minimal LSTM: f = sigmoid(W_f c), i = sigmoid(W_i c), h <- (f h + i (W_h c)) / (f + i); the gates do not depend on h.

Source: arXiv 2410.01201, section 3.2 (with the gates' sum normalised to 1). State: H * V floats.
Cost: H * V.

For: the same as `min_gru`, with separate gates for input and forgetting.
Can: keep a running mean of what its gates admit, and forget at a rate that each token sets; write a segment chunk in parallel.
Cannot: use its state in a write, so it cannot compute parity or track other states; look up a key (recall): every query returns
the same H * V numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..ops import min_lstm
from .base import Inputs, spans
from .vector import DiagonalMemory


class MinLSTM(DiagonalMemory):
    """keep = f / (f + i), new = i / (f + i) (W_h c). `write` holds W_f, W_i and W_h, in this order."""

    name: ClassVar[str] = "min_lstm"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options, 3)
        keep = spans(self.heads)  # f + i = 1 initially, so that keep = f
        self.start_with(keep, -keep, torch.zeros(self.heads))

    def inputs(self, c: Tensor) -> Inputs:
        """keep, new [R, M, H, V]."""
        keep, new = min_lstm.gates(*self.parts(c))
        return {"keep": keep, "new": new}
