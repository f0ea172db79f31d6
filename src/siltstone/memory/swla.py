"""Sliding-window linear attention of two: S_t = a_t S_{t-1} + b_t k_{t-1}^T v_{t-1} + l_t k_t^T v_t, o = q S.

    log a = logsigmoid(c W_a),   b = sigmoid(c W_b),   l = sigmoid(c W_l)        one of each a head, each with a bias

Every write writes the last one again beside its own, by gates read from the token of write t; before the first write k and v
are 0. Source: arXiv 2602.24281 (SWLA, c = 2).
State: H * (K * V + K + V) floats: S, and the last key and value.
Cost: 4 * H * K * V.

For: the gist of what was said lately, where a token tells how much the one before it mattered.
Can: what `gated` can; strengthen the last write afterwards.
Cannot: what `gated` cannot: replace one key without fading the others; parity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..state.tree import State
from .base import Inputs, Written, logits, wide
from .chunked import MatrixMemory, chunks, decays, outer
from .weighted import WeightedRead, weighted


@dataclass
class SwlaState(State):
    """matrix [B, H, K, V], key [B, H, K] and value [B, H, V] of the last write; float32 or wider.

    No MatrixState: what a difference in keys and values becomes is more than a decayed difference of matrices.
    """

    matrix: Tensor
    key: Tensor
    value: Tensor


class SwlaWritten(Written):
    """The matrix during a call."""

    def __init__(self, reader: WeightedRead, ends: SwlaState):
        self.reader, self.ends = reader, ends

    def read(self, stage: int, z: Tensor, group: int = 1) -> Tensor:
        """See Written."""
        return self.reader.read(z, group)


class Swla(MatrixMemory):
    """S <- a S + b k'^T v' + l k^T v, with k' and v' of the write before."""

    name: ClassVar[str] = "swla"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.gates = nn.Linear(cfg.d_model, 3 * self.heads)
        with torch.no_grad():  # heads remember from about twenty to some hundred writes
            self.gates.bias.zero_()
            self.gates.bias[: self.heads] = torch.linspace(3.0, 6.0, self.heads)

    def init(self, batch: int) -> SwlaState:
        """Zeros."""
        matrix = super().init(batch).matrix
        return SwlaState(matrix, torch.zeros_like(matrix[..., 0]), torch.zeros_like(matrix[..., 0, :]))

    def inputs(self, c: Tensor) -> Inputs:
        """key [R, M, H, K], value [R, M, H, V], decay (log space), again (b) and strength (l), each [R, M, H]."""
        decay, again, strength = logits(self.gates, c).chunk(3, -1)
        return super().inputs(c) | {"decay": F.logsigmoid(decay), "again": again.sigmoid(), "strength": strength.sigmoid()}

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> SwlaWritten:
        """See Memory.scan. A chunk of c slots has c + 1 keys: the one before it, and its own."""
        now, gates = cast(SwlaState, state), [inputs[name] for name in ("decay", "again", "strength")]
        if valid is not None:
            gates = [x * valid.unsqueeze(-1) for x in gates]
        size = self.size(gates[0].shape[2])
        decay, again, strength = (chunks(x, size) for x in gates)
        level = decay.cumsum(-1)
        fading = decays(level, 1)
        weight = F.pad(fading * again.unsqueeze(-2), (0, 1)) + F.pad(fading * strength.unsqueeze(-2), (1, 0))
        key, value = (_held(inputs[name], getattr(now, name), valid) for name in ("key", "value"))
        last = [wide(x[:, gates[0].shape[2] :: gates[0].shape[2]]).clone() for x in (key, value)]
        keys, values = (_overlapping(x, gates[0].shape[1], size) for x in (key, value))
        reader, ends = weighted(keys, values, weight, level.exp(), now.matrix)
        return SwlaWritten(reader, SwlaState(ends, *last))

    def step(self, inputs: Inputs, shift: int, state: State) -> SwlaState:
        """See Memory.step."""
        now, key, value = cast(SwlaState, state), wide(inputs["key"]), wide(inputs["value"])
        again, strength = inputs["again"].unsqueeze(-1), inputs["strength"].unsqueeze(-1)
        new = torch.addcmul(outer(key, strength * value), now.key.unsqueeze(-1), (again * now.value).unsqueeze(-2))
        return SwlaState(torch.addcmul(new, inputs["decay"].exp()[..., None, None], now.matrix), key, value)


def _held(x: Tensor, start: Tensor, valid: Tensor | None) -> Tensor:
    """Writes [G, S, L, H, ...] -> the last one at each slot, `start` [G, H, ...] before all: [G, 1 + S*L, H, ...]."""
    both = torch.cat([start.to(x.dtype).unsqueeze(1), x.flatten(1, 2)], 1)
    if valid is None:
        return both
    slot = torch.arange(1, both.shape[1], device=x.device)
    last = F.pad((slot * valid.flatten(1)).cummax(1).values, (1, 0))
    return both.gather(1, last[..., None, None].expand_as(both))


def _overlapping(x: Tensor, pieces: int, size: int) -> Tensor:
    """[G, 1 + S*L, H, ...] -> chunks with the slot before each: [G, S, H, L/size, 1 + size, ...]."""
    return x.unfold(1, size + 1, size).unflatten(1, (pieces, -1)).permute(0, 1, 3, 2, 5, 4).contiguous()
