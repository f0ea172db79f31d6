"""Delta rule: S_t = (I - b_t k_t^T k_t) S_{t-1} + b_t k_t^T v_t, o = q S, with unit keys and without forgetting.

    b = sigmoid(c W_b), with `negative` 2 sigmoid(c W_b)        one per head, with a bias

Source: arXiv 2406.06484, eq. 4 (the chunk form is that of `gated_delta` with a decay of 1). State: H * K * V floats.
Cost: 3 * H * K * V.

For: facts that change, within segments of moderate length.
Can: replace the value of a key in one write; recall K orthogonal keys per head exactly; with `negative`, compute parity and
track permutations (arXiv 2411.12537).
Cannot: forget keys that are not written again, nor clear its state; replace a value that an earlier segment sealed, if segments
restart. Without `negative` it cannot compute parity.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..ops import delta
from ..state.tree import State
from .base import Inputs, ScanOutput
from .gated_delta import GatedDelta
from .matrix import MatrixState


class Delta(GatedDelta):
    """S <- (I - b k^T k) S + b k^T v."""

    name: ClassVar[str] = "delta"
    decays = False

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        key, value, _, beta = self.given(inputs)
        reader, ends = delta.chunk(self.matrix(state), key, value, beta, valid=valid, size=self.chunk)
        return ScanOutput(MatrixState(ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> MatrixState:
        """See Memory.step."""
        key, value, _, beta = self.given(inputs)
        return MatrixState(delta.step(self.matrix(state), key, value, beta))
