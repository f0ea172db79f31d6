"""Sliding-window linear attention of two: S_t = a_t S_{t-1} + b_t k_{t-1}^T v_{t-1} + l_t k_t^T v_t, o = q S.

    log a = logsigmoid(c W_a),   b = sigmoid(c W_b),   l = sigmoid(c W_l)        one of each per head, each with a bias

Each write t stores its own pair and the previous pair again, with gates computed from token t; before the first write k and v
are 0. Source: arXiv 2602.24281 (SWLA, c = 2).
State: H * (K * V + K + V) floats: S, and the last key and value.
Cost: 4 * H * K * V.

For: the gist of recent text, if a token tells how much the previous token mattered.
Can: all that `gated` can; strengthen the previous write.
Cannot: replace one of many keys without fading the others; compute parity (as `gated`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.layer import LayerConfig
from ..ops import swla
from ..state.tree import State
from .base import Inputs, ScanOutput, biased, logits, spans
from .matrix import MatrixMemory

GIVEN = ("key", "value", "decay", "again", "beta")  # k, v, log a, b and l


@dataclass
class SwlaState(State):
    """matrix [B, H, K, V], key [B, H, K] and value [B, H, V] of the last write; float32 or wider.

    Not a MatrixState: a write does not map a difference of two states to a decayed difference of their matrices alone.
    """

    matrix: Tensor
    key: Tensor
    value: Tensor


class Swla(MatrixMemory):
    """S <- a S + b k'^T v' + l k^T v, with k' and v' of the previous write."""

    name: ClassVar[str] = "swla"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gates = biased(cfg.d_model, torch.cat([spans(self.heads), torch.zeros(2 * self.heads)]))

    def init(self, batch: int) -> SwlaState:
        """Zeros."""
        matrix = super().init(batch).matrix
        return SwlaState(matrix, torch.zeros_like(matrix[..., 0]), torch.zeros_like(matrix[..., 0, :]))

    def inputs(self, c: Tensor) -> Inputs:
        """key [R, M, H, K], value [R, M, H, V], decay (log space), again (b) and beta (l), each [R, M, H]."""
        decay, again, beta = logits(self.gates, c).chunk(3, -1)
        return super().inputs(c) | {"decay": F.logsigmoid(decay), "again": again.sigmoid(), "beta": beta.sigmoid()}

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        now, given = cast(SwlaState, state), (inputs[name] for name in GIVEN)
        reader, ends = swla.chunk((now.matrix, now.key, now.value), *given, valid=valid, size=self.chunk)
        return ScanOutput(SwlaState(*ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> SwlaState:
        """See Memory.step."""
        now = cast(SwlaState, state)
        return SwlaState(*swla.step((now.matrix, now.key, now.value), *(inputs[name] for name in GIVEN)))
