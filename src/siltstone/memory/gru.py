"""Gated recurrent unit over the compressed tokens: a vector state h [H, V]; a read returns h.

    z = sigmoid(W_z c + U_z h), r = sigmoid(W_r c + U_r h), n = tanh(W_n c + r * (U_n h)), h <- (1 - z) n + z h

c is RMS-normalised first; the read is normalised per head, as for every memory. Source: arXiv 1406.1078 in torch's form
(`torch.nn.GRU`, which runs it). State: H * V floats.
Cost: 3 * (H * V)^2, sequential.

For: state tracking (who holds the ball, inside or outside a quotation) with the smallest state; `lstm` is faster.
Can: track states that depend on the previous state, as an automaton does, parity included; forget and overwrite by its gates.
Cannot: look up a key: every query returns the same H * V numbers, which bounds recall. Writes cannot run in parallel.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import gru
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, ScanOutput, spans
from .vector import FusedMemory, VectorState, network_weights, whole


class GRU(FusedMemory):
    """h <- GRU(c, h)."""

    name: ClassVar[str] = "gru"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gru = nn.GRU(cfg.d_model, self.heads * self.val_dim, batch_first=True)
        keep = spans(self.heads, self.val_dim)
        with torch.no_grad():
            self.gru.get_parameter("bias_ih_l0")[len(keep) : 2 * len(keep)] = keep

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        whole(inputs["token"])
        reader, ends = gru.chunk(self.gru, cast(VectorState, state).hidden, inputs["token"], valid=valid, skip=skip)
        return ScanOutput(VectorState(ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> State:
        """See Memory.step. Compilers cannot trace torch's networks; then the equation is used."""
        if not torch.compiler.is_dynamo_compiling():
            return super().step(inputs, begins, state)
        return VectorState(gru.step(cast(VectorState, state).hidden, upcast(inputs["token"]), network_weights(self.gru)))
