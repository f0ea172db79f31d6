"""Gated recurrent unit over the compressed tokens: a vector state h [H, V], read as it is.

    z = sigmoid(W_z c + U_z h), r = sigmoid(W_r c + U_r h), n = tanh(W_n c + r * (U_n h)), h <- (1 - z) n + z h

c is RMS-normalised first; the read is normalised per head like every memory's. Source: arXiv 1406.1078 in torch's form
(`torch.nn.GRU`, which runs it). The recurrence is over writes, inside one fused call; pieces that restart run side by
side. State: H * V floats. A vector memory is a matrix with one row, asked with 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..config import LayerConfig
from ..norm import RMSNorm
from ..state import State
from .base import Inputs, Memory, NoOptions, Written, wide


@dataclass
class VectorState(State):
    """hidden [B, H, V], float32 or wider."""

    hidden: Tensor


class VectorWritten(Written):
    """after [G, S, H, L, V]: the hidden state at each write slot."""

    def __init__(self, after: Tensor, ends: Tensor):
        self.after, self.ends = after, VectorState(ends)

    def read(self, stage: int, z: Tensor) -> Tensor:
        """z [G, S, H, L*rate, 1] is 1 everywhere."""
        rate = z.shape[3] // self.after.shape[3]
        after = self.after.to(z.dtype)
        return after.repeat_interleave(rate, 3) if rate > 1 else after


class GRU(Memory):
    """h <- GRU(c, h)."""

    name: ClassVar[str] = "gru"

    def __init__(self, cfg: LayerConfig, options: NoOptions):
        super().__init__(cfg, options)
        self.norm = RMSNorm(cfg.d_model, 1e-6)
        self.gru = nn.GRU(cfg.d_model, self.heads * self.val_dim, batch_first=True)

    def init(self, batch: int) -> VectorState:
        """Zeros."""
        return VectorState(wide(self.norm.weight.new_zeros(batch, self.heads, self.val_dim)))

    def queries(self, x: Tensor) -> Tensor:
        """Ones [R, T, H, 1]: a vector is not asked for anything in particular."""
        return x.new_ones(1).expand(*x.shape[:2], self.heads, 1)

    def inputs(self, c: Tensor) -> Inputs:
        """token [R, M, D], RMS-normalised."""
        return {"token": self.norm(c)}

    def stages(self, state: State) -> tuple[Tensor, ...]:
        """h as a matrix with one row."""
        return (cast(VectorState, state).hidden.unsqueeze(-2),)

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> VectorWritten:
        """See Memory.scan."""
        token = inputs["token"]
        groups, pieces, slots = token.shape[:3]
        hidden = cast(VectorState, state).hidden.flatten(1)
        seen, ends = [], []
        for s in range(pieces):
            run, before = token[:, s], hidden
            at = torch.arange(slots, device=token.device)[None] - skip[:, s, None]
            if valid is not None:
                run = run.gather(
                    1,
                    (torch.arange(slots, device=token.device) + skip[:, s, None]).clamp(max=slots - 1)[..., None].expand_as(run),
                )
            with torch.autocast(token.device.type, enabled=False):
                kind = self.gru.weight_hh_l0.dtype
                after = self.gru(run.to(kind), before[None].to(kind))[0].to(before.dtype)
            both = torch.cat([before[:, None], after], 1)
            if valid is not None:
                last = valid[:, s].sum(-1)
                at = torch.minimum(at + 1, last[:, None]).clamp(min=0)
                seen.append(both.gather(1, at[..., None].expand(-1, -1, both.shape[-1])))
                hidden = both.gather(1, last[:, None, None].expand(-1, 1, both.shape[-1]))[:, 0]
            else:
                seen.append(after)
                hidden = after[:, -1]
            ends.append(hidden)
        shape = (self.heads, self.val_dim)
        return VectorWritten(torch.stack(seen, 1).unflatten(-1, shape).transpose(2, 3), torch.stack(ends, 1).unflatten(-1, shape))
