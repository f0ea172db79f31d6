"""Minimal GRU: z = sigmoid(W_z c), h <- (1 - z) h + z (W_h c); the gates do not depend on h.

Source: arXiv 2410.01201, section 3.1. State: H * V floats.
Cost: H * V.

For: topics and moods that change slowly, in the smallest state that is written in parallel.
Can: keep a running mean of what its gates admit, and forget at a rate that each token sets; write a segment chunk in parallel.
Cannot: use its state in a write, so it cannot compute parity or track other states; look up a key (recall): every query returns
the same H * V numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..ops import min_gru
from .base import Inputs, spans
from .vector import DiagonalMemory


class MinGRU(DiagonalMemory):
    """keep = 1 - z, new = z (W_h c). `write` holds W_z and W_h, in this order."""

    name: ClassVar[str] = "min_gru"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options, 2)
        self.start_with(-spans(self.heads), torch.zeros(self.heads))

    def inputs(self, c: Tensor) -> Inputs:
        """keep, new [R, M, H, V]."""
        keep, new = min_gru.gates(*self.parts(c))
        return {"keep": keep, "new": new}
