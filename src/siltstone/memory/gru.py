"""Gated recurrent unit over the compressed tokens: a vector state h [H, V], read as it is.

    z = sigmoid(W_z c + U_z h), r = sigmoid(W_r c + U_r h), n = tanh(W_n c + r * (U_n h)), h <- (1 - z) n + z h

c is RMS-normalised first; the read is normalised per head like every memory's. Source: arXiv 1406.1078 in torch's form
(`torch.nn.GRU`, which runs it). State: H * V floats.
Cost: 3 * (H * V)^2, one write after the other.

For: following a state (who holds the ball, inside or outside a quotation) in the smallest memory; `lstm` is faster.
Can: track states that depend on the state before, as automata do, parity included; forget and overwrite by its gates.
Cannot: be asked for a key: every query gets the same H * V numbers, and recall is bounded by them. Writes cannot run side by
side.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import gru
from ..state.tree import State
from .base import Inputs, ScanOutput
from .vector import FusedMemory, VectorState, whole


class GRU(FusedMemory):
    """h <- GRU(c, h)."""

    name: ClassVar[str] = "gru"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gru = nn.GRU(cfg.d_model, self.heads * self.val_dim, batch_first=True)
        keep = torch.linspace(3.0, 6.0, self.heads).repeat_interleave(self.val_dim)
        with torch.no_grad():  # heads remember from about twenty to some hundred writes, and gradients reach as far
            self.gru.get_parameter("bias_ih_l0")[len(keep) : 2 * len(keep)] = keep

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        whole(inputs["token"])
        reader, ends = gru.chunk(self.gru, cast(VectorState, state).hidden, inputs["token"], valid=valid, skip=skip)
        return ScanOutput(VectorState(ends), reader)
