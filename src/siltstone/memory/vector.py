"""Memories with one vector per head: shared by gru, lstm, slstm, min_gru and min_lstm.

A read returns the vector; caching policies see a matrix with one row that is always read with the query 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..errors import InputError
from ..ops import vector
from ..ops.norm import RMSNorm
from ..ops.transforms import batched
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, Memory, ScanOutput, logits


@dataclass
class VectorState(State):
    """hidden [B, H, V], float32 or wider."""

    hidden: Tensor


class VectorMemory(Memory):
    """hidden [H, V], initially zeros. Subclasses define `inputs` and `scan`."""

    def init(self, batch: int) -> VectorState:
        """Zeros."""
        return VectorState(self._zeros(batch))

    def _zeros(self, batch: int) -> Tensor:
        return upcast(self.like.new_zeros(batch, self.heads, self.val_dim))

    def queries(self, x: Tensor) -> Tensor:
        """Ones [R, T, H, 1]: a vector memory does not depend on the query."""
        return x.new_ones(1).expand(*x.shape[:2], self.heads, 1)

    def read_factors(self, state: State) -> tuple[Tensor, ...]:
        """The hidden vector as a matrix with one row."""
        return (cast(VectorState, state).hidden.unsqueeze(-2),)


def whole(token: Tensor) -> None:
    """Raise InputError under vmap: torch's GRU and LSTM have no vmap rule."""
    if batched(token):
        raise InputError(
            "torch's gru and lstm cannot run under vmap; pass the rows as a batch, or choose another memory, for example 'slstm'"
        )


def network_weights(network: nn.RNNBase) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of a network of torch's, in float32 or wider: of token and state, and their biases."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    w_ih, w_hh, b_ih, b_hh = (upcast(network.get_parameter(name)) for name in names)
    return w_ih, w_hh, b_ih, b_hh


class FusedMemory(VectorMemory):
    """A recurrent network over the writes of a segment chunk, one call each; segment chunks that restart run in parallel."""

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.norm = RMSNorm(cfg.d_model, 1e-6)

    def inputs(self, c: Tensor) -> Inputs:
        """token [R, M, D], RMS-normalised."""
        return {"token": self.norm(c)}


class DiagonalMemory(VectorMemory):
    """h_t = keep_t * h_{t-1} + new_t with gates that depend on the token alone, so a segment chunk is a parallel scan.

    Subclasses return `keep` in (0, 1) and `new` as inputs [R, M, H, V].
    """

    def __init__(self, cfg: LayerConfig, options: Any, parts: int):
        super().__init__(cfg, options)
        self.write = nn.Linear(cfg.d_model, parts * self.heads * self.val_dim)
        self.merges = (self.heads, 1, self.val_dim)

    def start_with(self, *biases: Tensor) -> None:
        """Initial biases [H] of each product: memory spans from about twenty to a few hundred writes."""
        with torch.no_grad():
            self.write.bias.copy_(torch.stack(biases).unsqueeze(-1).expand(-1, -1, self.val_dim).reshape(-1))

    def parts(self, c: Tensor) -> tuple[Tensor, ...]:
        """The products of `write`, each [R, M, H, V], in float32 or wider."""
        found = logits(self.write, c).unflatten(-1, (-1, self.heads, self.val_dim))
        return found.unbind(-3)

    def log_decay(self, inputs: Inputs) -> Tensor:
        """log keep, per channel."""
        return inputs["keep"].clamp(min=torch.finfo(inputs["keep"].dtype).tiny).log().unsqueeze(-2)

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        hidden = cast(VectorState, state).hidden
        reader, ends = vector.chunk(hidden, inputs["keep"], inputs["new"], valid=valid, size=self.chunk)
        return ScanOutput(VectorState(ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> VectorState:
        """See Memory.step."""
        return VectorState(vector.step(cast(VectorState, state).hidden, inputs["keep"], inputs["new"]))
