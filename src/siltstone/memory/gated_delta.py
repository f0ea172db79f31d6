"""Gated delta rule: S_t = a_t (I - b_t k_t^T k_t) S_{t-1} + b_t k_t^T v_t, o = q S, with unit keys.

    log a = logsigmoid(c W_a),   b = sigmoid(c W_b), with `negative` 2 sigmoid(c W_b)        one of each per head, with biases

A write first erases the old value of its key. Source: arXiv 2412.06464, eq. 10 and its chunk form (WY representation: one
triangular solve per chunk). State: H * K * V floats.
Cost: 4 * H * K * V.

For: facts that change, in texts of any length; the first choice for recall.
Can: replace the value of a key in one write; forget the whole state at a rate that each token sets; recall K orthogonal keys per
head exactly; with `negative`, compute parity and track permutations (arXiv 2411.12537).
Cannot: tell more than K keys per head apart; replace a value that an earlier segment sealed, if segments restart (a fix:
`start="carry"`). Without `negative` it cannot compute parity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops import gated_delta
from ..state.tree import State
from .base import Inputs, ScanOutput
from .gated import GatedMatrixMemory
from .matrix import MatrixState


@dataclass(frozen=True)
class DeltaOptions:
    """negative: beta up to 2 instead of 1, so that a write can flip the sign of part of the state (arXiv 2411.12537)."""

    negative: bool = False


class GatedDelta(GatedMatrixMemory):
    """S <- a (I - b k^T k) S + b k^T v."""

    name: ClassVar[str] = "gated_delta"
    Options = DeltaOptions
    variants = ({"negative": True},)

    @classmethod
    def check(cls, cfg: LayerConfig, options: DeltaOptions) -> None:
        """`negative` must be true or false."""
        if not isinstance(options.negative, bool):
            raise ConfigError(f"memory_options negative={options.negative!r} must be true or false")

    def inputs(self, c: Tensor) -> Inputs:
        """key, value, decay (log space), and beta in (0, 1), or (0, 2) with `negative`."""
        found = super().inputs(c)
        return found | {"beta": 2 * found["beta"]} if self.options.negative else found

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        reader, ends = gated_delta.chunk(self.matrix(state), *self.given(inputs), valid=valid, size=self.chunk)
        return ScanOutput(MatrixState(ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> MatrixState:
        """See Memory.step."""
        return MatrixState(gated_delta.step(self.matrix(state), *self.given(inputs)))
