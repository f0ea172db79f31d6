"""Minimal LSTM: f = sigmoid(W_f c), i = sigmoid(W_i c), h <- (f h + i (W_h c)) / (f + i), gates that do not look at h.

Source: arXiv 2410.01201, section 3.2 (with the gates' sum normalised to 1). State: H * V floats.
Cost: H * V.

For: the same as `min_gru`, with letting in and letting go learned apart.
Can: keep a running mean of what its gates let in, and forget as fast as each token says; write a segment chunk side by side.
Cannot: look at its state before a write, so that parity and other states to be tracked are out of reach; be asked for a key
(recall): every query gets the same H * V numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..ops import min_lstm
from .base import Inputs
from .vector import DiagonalMemory


class MinLSTM(DiagonalMemory):
    """keep = f / (f + i), new = i / (f + i) (W_h c). W_f, W_i and W_h lie in `write`, in this order."""

    name: ClassVar[str] = "min_lstm"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options, 3)
        spans = torch.linspace(3.0, 6.0, self.heads)  # f + i = 1 to begin with, so that f is what is kept
        self.start_with(spans, -spans, torch.zeros(self.heads))

    def inputs(self, c: Tensor) -> Inputs:
        """keep, new [R, M, H, V]."""
        keep, new = min_lstm.gates(*self.parts(c))
        return {"keep": keep, "new": new}
