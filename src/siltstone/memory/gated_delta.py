"""Gated delta rule: S_t = a_t (I - b_t k_t^T k_t) S_{t-1} + b_t k_t^T v_t, o = q S, with unit keys.

    log a = logsigmoid(c W_a),   b = sigmoid(c W_b), with `negative` 2 sigmoid(c W_b)        one of each a head, each with a bias

A write first erases what its key held. Source: arXiv 2412.06464, eq. 10 and its chunk form (WY representation: one
triangular solve a chunk). State: H * K * V floats.
Cost: 4 * H * K * V.

For: facts that change, in texts of any length; the first choice for recall.
Can: replace what a key holds in one write; forget all of it, as fast as each token says; recall K orthogonal keys a head
exactly; with `negative`, decide parity and follow swaps (arXiv 2411.12537).
Cannot: hold more than K keys a head apart; replace what an earlier segment sealed, where segments restart (`start="carry"`).
Without `negative`, parity is out of reach.
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
    """negative: beta up to 2 instead of 1, so that a write may turn a state's sign over (arXiv 2411.12537)."""

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
