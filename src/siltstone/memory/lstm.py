"""Long short-term memory over the compressed tokens: a vector state h and a cell s, both [H, V]; a read returns h.

    i, f, o = sigmoid(W c + U h), g = tanh(W_g c + U_g h), s <- f * s + i * g, h <- o * tanh(s)

c is RMS-normalised first; the read is normalised per head, as for every memory. Source: Hochreiter and Schmidhuber 1997 with
the forget gate of Gers et al. 2000, in torch's form (`torch.nn.LSTM`, which runs it). State: 2 * H * V floats.
Cost: 4 * (H * V)^2, sequential.

For: state tracking and counting.
Can: track states that depend on the previous state, as an automaton does, parity included; count in its cells (arXiv
1805.04908); forget by its gates.
Cannot: look up a key: every query returns the same H * V numbers, which bounds recall. Writes cannot run in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import lstm
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, ScanOutput, spans
from .vector import FusedMemory, VectorState, network_weights, whole


@dataclass
class CellState(VectorState):
    """hidden, cell [B, H, V], float32 or wider."""

    cell: Tensor


class LSTM(FusedMemory):
    """h, s <- LSTM(c, h, s). Initial memory spans: about twenty to a few hundred writes (arXiv 1804.11188, section 2)."""

    name: ClassVar[str] = "lstm"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        width = self.heads * self.val_dim
        self.lstm = nn.LSTM(cfg.d_model, width, batch_first=True)
        with torch.no_grad():
            keep = spans(self.heads, self.val_dim)
            self.lstm.get_parameter("bias_ih_l0")[: 2 * width] = torch.cat([-keep, keep])

    def init(self, batch: int) -> CellState:
        """Zeros."""
        return CellState(self._zeros(batch), self._zeros(batch))

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        whole(inputs["token"])
        now = cast(CellState, state)
        reader, ends = lstm.chunk(self.lstm, (now.hidden, now.cell), inputs["token"], valid=valid, skip=skip)
        return ScanOutput(CellState(*ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> State:
        """See Memory.step. Compilers cannot trace torch's networks; then the equation is used."""
        if not torch.compiler.is_dynamo_compiling():
            return super().step(inputs, begins, state)
        now = cast(CellState, state)
        return CellState(*lstm.step((now.hidden, now.cell), upcast(inputs["token"]), network_weights(self.lstm)))
