"""Linear attention: S_t = S_{t-1} + k_t^T v_t, o = q S, with unit queries and keys.

Source: arXiv 2006.16236, eq. 18 (identity feature map, no normaliser). State: H * K * V floats.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..state import State
from .base import Inputs
from .chunked import MatrixMemory, MatrixState, MatrixWritten, additive, chunks, outer


class Linear(MatrixMemory):
    """S <- S + k^T v. It forgets nothing, so that in a long segment everything blurs."""

    name: ClassVar[str] = "linear"

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> MatrixWritten:
        """See Memory.scan."""
        key = inputs["key"] if valid is None else inputs["key"] * valid[..., None, None]
        size = self.size(key.shape[2])
        return additive(chunks(key, size), chunks(inputs["value"], size), None, self.matrix(state))

    def step(self, inputs: Inputs, shift: int, state: State) -> MatrixState:
        """See Memory.step."""
        return MatrixState(self.matrix(state) + outer(inputs["key"], inputs["value"]))
