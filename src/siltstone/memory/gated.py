"""Gated linear memory: S_t = a_t S_{t-1} + b_t k_t^T v_t, o = q S, one decay a and one write strength b a head.

log a = logsigmoid(x W_a), b = sigmoid(x W_b). Source: arXiv 2405.21060 (scalar decay, SSD), with a write gate.
State: H * K * V floats.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import LayerConfig
from ..linear import Linear
from ..state import State
from .base import Inputs, wide
from .chunked import MatrixMemory, MatrixState, MatrixWritten, additive, chunks, outer


class GatedMatrixMemory(MatrixMemory):
    """A matrix memory with a decay (log space) and a write strength a head, both read from the token."""

    decays: ClassVar[bool] = True

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gates = Linear(cfg.d_model, (1 + self.decays) * self.heads)
        with torch.no_grad():
            self.gates.bias.zero_()
            if self.decays:
                self.gates.bias[: self.heads] = torch.linspace(3.0, 6.0, self.heads)

    def inputs(self, c: Tensor) -> Inputs:
        """key [R, M, H, K], value [R, M, H, V], decay [R, M, H] in log space, strength [R, M, H]."""
        gates = wide(self.gates(c))
        if not self.decays:
            return super().inputs(c) | {"decay": torch.zeros_like(gates), "strength": gates.sigmoid()}
        decay, strength = gates.chunk(2, -1)
        return super().inputs(c) | {"decay": F.logsigmoid(decay), "strength": strength.sigmoid()}


class Gated(GatedMatrixMemory):
    """S <- a S + b k^T v."""

    name: ClassVar[str] = "gated"

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> MatrixWritten:
        """See Memory.scan."""
        decay, strength = inputs["decay"], inputs["strength"]
        if valid is not None:
            decay, strength = decay * valid.unsqueeze(-1), strength * valid.unsqueeze(-1)
        key = inputs["key"] * strength.unsqueeze(-1).to(inputs["key"].dtype)
        size = self.size(key.shape[2])
        total = chunks(decay, size).cumsum(-1)
        return additive(chunks(key, size), chunks(inputs["value"], size), total, self.matrix(state))

    def step(self, inputs: Inputs, shift: int, state: State) -> MatrixState:
        """See Memory.step."""
        new = outer(inputs["key"], inputs["value"] * inputs["strength"].unsqueeze(-1).to(inputs["value"].dtype))
        return MatrixState(torch.addcmul(new, inputs["decay"].exp()[..., None, None], self.matrix(state)))
