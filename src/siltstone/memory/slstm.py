"""Scalar LSTM with exponential gates: c <- f c + i z, n <- f n + i, h <- o c / n; a read returns h.

    z = tanh(~z), i = exp(~i), f = sigmoid(~f), o = sigmoid(~o),    (~z, ~i, ~f, ~o) = W x + h R + b

x is the RMS-normalised compressed token, h the head's own last output: R has one block [V, V] for each head and gate. c and n
are stored in units of e^m, m <- max(log f + m, ~i), so that nothing overflows and n is at least 1; m cancels out of h.
Source: arXiv 2405.04517, eqs. 8 to 17. State: 4 * H * V floats.
Cost: 4 * H * V^2, sequential.

For: state tracking, and revising a state.
Can: track states, parity included; forget at a rate set by each token and the head's last output; let a write outweigh all
before it.
Cannot: look up a key: every query returns the same H * V numbers. Writes cannot run in parallel inside a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import slstm
from ..ops.slstm import NOTHING
from ..state.tree import State
from .base import Inputs, ScanOutput, biased, logits, spans
from .vector import FusedMemory, VectorState


@dataclass
class ScalarState(VectorState):
    """hidden h, cell c, total n, level m (log space), each [B, H, V], float32 or wider."""

    cell: Tensor
    total: Tensor
    level: Tensor


class SLSTM(FusedMemory):
    """h, c, n, m <- sLSTM(c, h, c, n, m). `write` holds W and b of z, i, f and o, in this order; `recurrent` is R."""

    name: ClassVar[str] = "slstm"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        width = self.heads * self.val_dim
        bias = torch.zeros(4, width)
        bias[2] = spans(self.heads, self.val_dim)
        self.write = biased(cfg.d_model, bias.flatten())
        self.recurrent = nn.Parameter(torch.empty(self.heads, self.val_dim, 4 * self.val_dim))
        with torch.no_grad():
            self.recurrent.uniform_(-1, 1).mul_(self.val_dim**-0.5)

    def init(self, batch: int) -> ScalarState:
        """Zeros; `level` is that of an empty state."""
        hidden, cell, total, level = (self._zeros(batch) for _ in range(4))
        return ScalarState(hidden, cell, total, level + NOTHING)

    def inputs(self, c: Tensor) -> Inputs:
        """token [R, M, 4*H*V]: the part of the gates that depends on the token."""
        return {"token": logits(self.write, self.norm(c))}

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        now = cast(ScalarState, state)
        leaves = now.hidden, now.cell, now.total, now.level
        reader, ends = slstm.chunk(self.recurrent, leaves, inputs["token"], valid=valid, skip=skip)
        return ScanOutput(ScalarState(*ends), reader)
