"""Matrix memories: projections, state and reads of rules whose state is one matrix per head (their scan: ops/chunked.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops.norm import l2
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, Memory


@dataclass
class MatrixState(State):
    """matrix [B, H, K, V], float32 or wider."""

    matrix: Tensor


class MatrixMemory(Memory):
    """A state S [H, K, V], initially zeros, read by o = q S with unit queries; unit keys and values from the compressed token."""

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.chunk = 32 if self.key_dim <= 32 else 64
        self.query = nn.Linear(cfg.d_model, self.heads * self.key_dim, bias=False)
        self.write = nn.Linear(cfg.d_model, self.heads * (self.key_dim + self.val_dim), bias=False)

    def init(self, batch: int) -> MatrixState:
        """Zeros."""
        return MatrixState(upcast(self.like.new_zeros(batch, self.heads, self.key_dim, self.val_dim)))

    def feature(self, z: Tensor) -> Tensor:
        """Applied to queries and keys after their projection: unit vectors."""
        return l2(z)

    def queries(self, x: Tensor) -> Tensor:
        """q = feature(x W_q)."""
        return self.feature(self.query(x).unflatten(-1, (self.heads, self.key_dim)))

    def inputs(self, c: Tensor) -> Inputs:
        """key = feature(c W_k) [R, M, H, K], value = c W_v [R, M, H, V]."""
        key, value = self.write(c).split([self.heads * self.key_dim, self.heads * self.val_dim], -1)
        return {"key": self.feature(key.unflatten(-1, (self.heads, -1))), "value": value.unflatten(-1, (self.heads, -1))}

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return inputs["key"], inputs["value"]

    def read_factors(self, state: State) -> tuple[Tensor, ...]:
        """S itself."""
        return (self.matrix(state),)

    def matrix(self, state: State) -> Tensor:
        """S of a state."""
        return cast(MatrixState, state).matrix
