"""mLSTM: C_t = f_t C_{t-1} + i_t k_t^T v_t, n_t = f_t n_{t-1} + i_t k_t, o = q C / max(|q n|, 1).

    f = sigmoid(c W_f),   i = exp(c W_i)        one of each a head, each with a bias
    m_t = max(log f_t + m_{t-1}, log i_t, 0),   C and n kept times e^-m,   o = q C / max(|q n|, e^-m)

Keys are divided by sqrt(K), and nothing is made a unit vector. o is the same for any m; this one is never below 0, so that
neither a state nor e^-m overflows, whatever the gates. m carries no gradient, since it cancels out. The output gate is left out.
Source: arXiv 2405.04517, eqs. 19 to 27; the stabiliser, eq. 15.
State: H * (K * V + K + 1) floats.
Cost: 3 * H * K * (V + 1).

For: recall where one write must outweigh many.
Can: let a write outweigh all before it; forget; recall of about K keys a head.
Cannot: replace one key among many without fading the others; be blended (soup) or merged; parity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import registry
from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..state.tree import State
from .base import Inputs, Written, last_seen, logits, wide
from .chunked import MatrixMemory, chunks, decays, outer
from .weighted import WeightedRead, weighted


@dataclass
class MlstmState(State):
    """matrix [B, H, K, V + 1]: [C, n] e^-m; stabiliser [B, H]: m. Float32 or wider."""

    matrix: Tensor
    stabiliser: Tensor


class MlstmWritten(Written):
    """[C, n] e^-m during a call, and e^-m at each slot, floor [G, S, H, L]."""

    def __init__(self, reader: WeightedRead, floor: Tensor, ends: MlstmState):
        self.reader, self.floor, self.ends = reader, floor, ends

    def read(self, stage: int, z: Tensor, group: int = 1) -> Tensor:
        """See Written."""
        floor = self.floor.index_select(3, last_seen(self.floor.shape[3], z.shape[3], group, z.device)).to(z.dtype)
        return torch.cat([self.reader.read(z[..., :-1], group), floor.unsqueeze(-1)], -1)


class Mlstm(MatrixMemory):
    """[C, n] <- f [C, n] + i k^T [v, 1]. A query ends with a 1, which finds e^-m in a corner of its own."""

    name: ClassVar[str] = "mlstm"
    divisors = 2  # n and e^-m
    read_is_linear = False
    adds_up = False

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gates = nn.Linear(cfg.d_model, 2 * self.heads)
        with torch.no_grad():  # heads remember from about twenty to some hundred writes, whose i add up to about 1
            spans = torch.linspace(3.0, 6.0, self.heads)
            self.gates.bias.copy_(torch.cat([spans, -spans]))

    @classmethod
    def check(cls, cfg: LayerConfig, options: Any) -> None:
        """Excludes `cache='soup'`, which blends states: each is scaled by an e^-m of its own."""
        if registry.member("cache", cfg.cache).blends:
            raise ConfigError(
                f"cache={cfg.cache!r} blends states, and with memory='mlstm' each state has a scale of its own; "
                "choose cache='gated', which blends what they answer"
            )

    def init(self, batch: int) -> MlstmState:
        """Zeros."""
        zeros = wide(self.like.new_zeros(batch, self.heads, self.key_dim, self.val_dim + 1))
        return MlstmState(zeros, torch.zeros_like(zeros[..., 0, 0]))

    def feature(self, z: Tensor) -> Tensor:
        """As it is."""
        return z

    def queries(self, x: Tensor) -> Tensor:
        """q = [c W_q, 1]: [R, T, H, K + 1]."""
        return F.pad(super().queries(x), (0, 1), value=1.0)

    def inputs(self, c: Tensor) -> Inputs:
        """key [R, M, H, K], value [R, M, H, V + 1] with a 1 at its end; log f and log i, [R, M, H]."""
        found, (forget, enter) = super().inputs(c), logits(self.gates, c).chunk(2, -1)
        key, value = found["key"] * self.key_dim**-0.5, F.pad(found["value"], (0, 1), value=1.0)
        return {"key": key, "value": value, "forget": F.logsigmoid(forget), "enter": enter}

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return F.pad(inputs["key"], (0, 1), value=1.0), inputs["value"][..., :-1]

    def stages(self, state: State) -> tuple[Tensor, ...]:
        """[[C e^-m, n e^-m, 0], [0, 0, e^-m]]."""
        now = cast(MlstmState, state)
        corner = F.pad((-now.stabiliser).exp()[..., None, None], (self.val_dim + 1, 0, self.key_dim, 0))
        return (F.pad(now.matrix, (0, 1, 0, 1)) + corner,)

    def join(self, stage: int, z: Tensor, query: Tensor) -> Tensor:
        """q C / max(|q n|, e^-m), divided in float32 or wider: in float16 the square of a small divisor is 0.

        The divisor is at least the square of the dtype's epsilon: e^-m may underflow.
        """
        exact = wide(z)
        size = torch.maximum(exact[..., -2:-1].abs(), exact[..., -1:]).clamp(min=torch.finfo(z.dtype).eps ** 2)
        return (exact[..., :-2] / size).to(z.dtype)

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> MlstmWritten:
        """See Memory.scan."""
        forget, enter, now = inputs["forget"], inputs["enter"], cast(MlstmState, state)
        if valid is not None:
            forget, enter = forget * valid.unsqueeze(-1), enter.masked_fill(~valid.unsqueeze(-1), float("-inf"))
        size = self.size(forget.shape[2])
        level, enter = chunks(forget, size).cumsum(-1), chunks(enter, size)
        m, first = stabilisers(level.detach(), enter.detach(), now.stabiliser.detach())
        weight = decays(level, 1, enter.unsqueeze(-2) - m.unsqueeze(-1))
        fade = (level + first.unsqueeze(-1) - m).exp()
        keys, values = chunks(inputs["key"], size), chunks(inputs["value"], size)
        reader, ends = weighted(keys, values, weight, fade, now.matrix)
        return MlstmWritten(reader, (-m).exp().flatten(3, 4), MlstmState(ends, m[..., -1, -1].clone()))

    def step(self, inputs: Inputs, shift: int, state: State) -> MlstmState:
        """See Memory.step."""
        now, enter = cast(MlstmState, state), inputs["enter"]
        left = inputs["forget"] + now.stabiliser
        m = torch.maximum(left, enter).detach().clamp(min=0.0)
        new = outer(inputs["key"], wide(inputs["value"]) * (enter - m).exp().unsqueeze(-1))
        return MlstmState(torch.addcmul(new, (left - m).exp()[..., None, None], now.matrix), m)


def stabilisers(level: Tensor, enter: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """m at each slot [G, S, H, n, c], and before each chunk [G, S, H, n].

    level [G, S, H, n, c]: cumulative log f in each chunk; enter, the same shape: log i; start [G, H].
    """
    own = (level + (enter - level).cummax(-1).values).clamp(min=0.0)
    before, pieces, n = [start], *level.shape[1:4:2]
    ends = (x[..., -1].transpose(2, 3).flatten(1, 2).unbind(1) for x in (level, own))
    for fall, top in zip(*ends, strict=True):
        before.append(torch.maximum(before[-1] + fall, top))
    first = torch.stack(before[:-1], 1).unflatten(1, (pieces, n)).transpose(2, 3)
    return torch.maximum(level + first.unsqueeze(-1), own), first
