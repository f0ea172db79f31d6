"""mLSTM: C_t = f_t C_{t-1} + i_t k_t^T v_t, n_t = f_t n_{t-1} + i_t k_t, o = q C / max(|q n|, 1).

    f = sigmoid(c W_f),   i = exp(c W_i)        one of each per head, each with a bias
    m_t = max(log f_t + m_{t-1}, log i_t, 0),   C and n stored times e^-m,   o = q C / max(|q n|, e^-m)

Keys are divided by sqrt(K); keys and queries are not normalised. o is the same for any m; this m is never below 0, so neither
the state nor e^-m overflows for any gates. m carries no gradient, since it cancels out. The output gate is left out.
Source: arXiv 2405.04517, eqs. 19 to 27; the stabiliser, eq. 15.
State: H * (K * V + K + 1) floats.
Cost: 3 * H * K * (V + 1).

For: recall if one write must outweigh many.
Can: let a write outweigh all before it; forget; recall about K keys per head.
Cannot: replace one of many keys without fading the others; work with blended (soup) or merged states; compute parity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import registry
from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops import mlstm
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, ScanOutput, biased, logits, spans
from .matrix import MatrixMemory


@dataclass
class MlstmState(State):
    """matrix [B, H, K, V + 1]: [C, n] e^-m; stabiliser [B, H]: m. Float32 or wider."""

    matrix: Tensor
    stabiliser: Tensor


class Mlstm(MatrixMemory):
    """[C, n] <- f [C, n] + i k^T [v, 1]. A query ends with a 1, which reads e^-m from the last row of the read factor."""

    name: ClassVar[str] = "mlstm"
    normalizer = 2  # n and e^-m
    read_is_linear = False
    adds_up = False

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gates = biased(cfg.d_model, torch.cat([spans(self.heads), -spans(self.heads)]))  # the i of a span add up to about 1

    @classmethod
    def check(cls, cfg: LayerConfig, options: Any) -> None:
        """Excludes `cache='soup'`, which blends states: each state has its own scale e^-m."""
        if registry.member("cache", cfg.cache).blends:
            raise ConfigError(
                f"cache={cfg.cache!r} blends states, and with memory='mlstm' each state has its own scale; "
                "choose cache='gated', which blends outputs"
            )

    def init(self, batch: int) -> MlstmState:
        """Zeros."""
        zeros = upcast(self.like.new_zeros(batch, self.heads, self.key_dim, self.val_dim + 1))
        return MlstmState(zeros, torch.zeros_like(zeros[..., 0, 0]))

    def feature(self, z: Tensor) -> Tensor:
        """z unchanged: no normalisation."""
        return z

    def queries(self, x: Tensor) -> Tensor:
        """q = [c W_q, 1]: [R, T, H, K + 1]."""
        return F.pad(super().queries(x), (0, 1), value=1.0)

    def inputs(self, c: Tensor) -> Inputs:
        """key [R, M, H, K], value [R, M, H, V + 1] whose last column is 1; log f and log i, [R, M, H]."""
        found, (forget, enter) = super().inputs(c), logits(self.gates, c).chunk(2, -1)
        key, value = found["key"] * self.key_dim**-0.5, F.pad(found["value"], (0, 1), value=1.0)
        return {"key": key, "value": value, "forget": F.logsigmoid(forget), "enter": enter}

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return F.pad(inputs["key"], (0, 1), value=1.0), inputs["value"][..., :-1]

    def read_factors(self, state: State) -> tuple[Tensor, ...]:
        """[[C e^-m, n e^-m, 0], [0, 0, e^-m]]."""
        return (mlstm.factor(*_leaves(state)),)

    def activation(self, factor: int, z: Tensor, query: Tensor) -> Tensor:
        """q C / max(|q n|, e^-m)."""
        return mlstm.divided(z)

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        reader, ends = mlstm.chunk(_leaves(state), *_given(inputs), valid=valid, size=self.chunk)
        return ScanOutput(MlstmState(*ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> MlstmState:
        """See Memory.step."""
        return MlstmState(*mlstm.step(_leaves(state), *_given(inputs)))


def _leaves(state: State) -> mlstm.Leaves:
    now = cast(MlstmState, state)
    return now.matrix, now.stabiliser


def _given(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """k, v, log f and log i."""
    return inputs["key"], inputs["value"], inputs["forget"], inputs["enter"]
