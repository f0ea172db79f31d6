"""Linear attention: S_t = S_{t-1} + f(k_t)^T v_t, o = f(q) S, f a feature map (default: unit vectors).

    with normalise: z_t = z_{t-1} + f(k_t),   o = f(q) S / (f(q) z + 1e-6), separately for every memory

Source: arXiv 2006.16236, eqs. 18 to 20 (f = elu + 1). State: H * K * V floats (H * K more with `normalise`).
Cost: 2 * H * K * V.

For: sums and counts over short segments, and as the cheapest baseline.
Can: recall about K keys per head, exactly if they are orthogonal; reach the same state for any order of writes; with
`normalise`, return a weighted mean of values.
Cannot: forget, or replace the value of a key: values add up. The norm of the state grows with the text. It cannot compute parity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops import linear
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, ScanOutput
from .matrix import MatrixMemory, MatrixState


@dataclass(frozen=True)
class LinearOptions:
    """feature: "identity" (unit vectors), "elu" (elu + 1) or "softmax" (over K). normalise: divide by the sum of the keys."""

    feature: str = "identity"
    normalise: bool = False


class Linear(MatrixMemory):
    """S <- S + f(k)^T v. Nothing is forgotten, so keys interfere in a long segment."""

    name: ClassVar[str] = "linear"
    Options = LinearOptions
    bounded: ClassVar[bool] = False
    variants = ({"feature": "elu", "normalise": True},)

    def __init__(self, cfg: LayerConfig, options: LinearOptions):
        super().__init__(cfg, options)
        self.read_is_linear = not options.normalise
        self.merges, self.normalizer = (self.heads,), int(options.normalise)

    @classmethod
    def check(cls, cfg: LayerConfig, options: LinearOptions) -> None:
        """`normalise=true` requires `feature` to be `elu` or `softmax`, whose values are positive."""
        if options.feature not in [*linear.FEATURES]:
            raise ConfigError(f"memory_options feature={options.feature!r} is not known; choose one of {list(linear.FEATURES)}")
        if not isinstance(options.normalise, bool) or options.normalise and options.feature == "identity":
            raise ConfigError(
                f"memory_options normalise={options.normalise!r} divides by a sum that must be positive; "
                "choose feature='elu' or 'softmax' with it, or normalise=false"
            )

    def init(self, batch: int) -> MatrixState:
        """Zeros; with `normalise` the sum of keys is one more column."""
        wider = self.val_dim + self.options.normalise
        return MatrixState(upcast(self.like.new_zeros(batch, self.heads, self.key_dim, wider)))

    def feature(self, z: Tensor) -> Tensor:
        """f."""
        return linear.FEATURES[self.options.feature](z)

    def inputs(self, c: Tensor) -> Inputs:
        """key [R, M, H, K] and value [R, M, H, V]; with `normalise` a column of ones is appended to the value."""
        found = super().inputs(c)
        if self.options.normalise:
            value = found["value"]
            found["value"] = torch.cat([value, value.new_ones(*value.shape[:-1], 1)], -1)
        return found

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return inputs["key"], inputs["value"][..., : self.val_dim]

    def log_decay(self, inputs: Inputs) -> Tensor:
        """Zeros: nothing decays."""
        return upcast(inputs["key"].new_zeros(inputs["key"].shape[:-1]))

    def activation(self, factor: int, z: Tensor, query: Tensor) -> Tensor:
        """With `normalise`, z divided by f(q) z."""
        return linear.normalised(z) if self.options.normalise else z

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        reader, ends = linear.chunk(self.matrix(state), inputs["key"], inputs["value"], valid=valid, size=self.chunk)
        return ScanOutput(MatrixState(ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> MatrixState:
        """See Memory.step."""
        return MatrixState(linear.step(self.matrix(state), inputs["key"], inputs["value"]))
