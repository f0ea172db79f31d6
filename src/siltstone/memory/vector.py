"""Memories that are a vector a head: what gru, lstm, slstm, min_gru and min_lstm share.

A vector memory is read as it is; to the caches it is a matrix with one row that is always asked with 1.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..errors import InputError
from ..ops.chunked import last_seen
from ..ops.norm import RMSNorm
from ..ops.transforms import batched
from ..state.tree import State
from .base import Inputs, Memory, Written, logits, wide


@dataclass
class VectorState(State):
    """hidden [B, H, V], float32 or wider."""

    hidden: Tensor


class VectorWritten(Written):
    """after [G, S, H, L, V]: the hidden state at each write slot."""

    def __init__(self, after: Tensor, ends: VectorState):
        self.after, self.ends = after, ends

    def read(self, stage: int, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, 1] is 1 everywhere."""
        after, slots = self.after.to(z.dtype), self.after.shape[3]
        return (
            after if slots == z.shape[3] and group == 1 else after.index_select(3, last_seen(slots, z.shape[3], group, z.device))
        )


class VectorMemory(Memory):
    """hidden [H, V], zeros to begin with. Subclasses define `inputs` and `scan`."""

    def init(self, batch: int) -> VectorState:
        """Zeros."""
        return VectorState(self._zeros(batch))

    def _zeros(self, batch: int) -> Tensor:
        return wide(self.like.new_zeros(batch, self.heads, self.val_dim))

    def queries(self, x: Tensor) -> Tensor:
        """Ones [R, T, H, 1]: a vector is not asked for anything in particular."""
        return x.new_ones(1).expand(*x.shape[:2], self.heads, 1)

    def stages(self, state: State) -> tuple[Tensor, ...]:
        """The hidden vector as a matrix with one row."""
        return (cast(VectorState, state).hidden.unsqueeze(-2),)


def whole(token: Tensor) -> None:
    """InputError where torch's recurrences, which have no rule for vmap, would be asked for one."""
    if batched(token):
        raise InputError(
            "torch's gru and lstm cannot be run under vmap; give the rows as a batch, or choose another memory, such as 'slstm'"
        )


class FusedMemory(VectorMemory):
    """A recurrent network over the writes of a piece, one call each; pieces that restart run side by side.

    It runs in float32 or wider: in bfloat16 torch would round its state at every write.
    """

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.norm = RMSNorm(cfg.d_model, 1e-6)

    def inputs(self, c: Tensor) -> Inputs:
        """token [R, M, D], RMS-normalised."""
        return {"token": self.norm(c)}

    @abstractmethod
    def run(self, token: Tensor, state: VectorState, count: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """token [G, L, ...] -> hidden after each [G, L, H*V]; other leaves [G, H, V] after `count` [G] tokens (None: all)."""

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> VectorWritten:
        """See Memory.scan."""
        token, now = inputs["token"], cast(VectorState, state)
        pieces, slots = token.shape[1:3]
        slot = torch.arange(slots, device=token.device)
        seen, ends = [], []
        for s in range(pieces):
            run, before, count = token[:, s], now.hidden.flatten(1), None
            if valid is not None:  # the piece's own writes first, however many slots it leaves empty before them
                run = run.gather(1, (slot + skip[:, s, None]).clamp(max=slots - 1)[..., None].expand_as(run))
                count = valid[:, s].sum(-1)
            after, rest = self.run(run, now, count)
            if count is None:
                hidden = after[:, -1]
                seen.append(after)
            else:
                both = torch.cat([before[:, None], after], 1)
                at = torch.minimum(slot - skip[:, s, None] + 1, count[:, None]).clamp(min=0)
                seen.append(both.gather(1, at[..., None].expand(-1, -1, both.shape[-1])))
                hidden = both.gather(1, count[:, None, None].expand(-1, 1, both.shape[-1]))[:, 0]
            now = type(now)(hidden=hidden.unflatten(-1, (self.heads, self.val_dim)), **rest)
            ends.append(now)
        stacked = type(now)(**{n: torch.stack([getattr(e, n) for e in ends], 1) for n in vars(now)})
        return VectorWritten(torch.stack(seen, 1).unflatten(-1, (self.heads, self.val_dim)).transpose(2, 3), stacked)


class DiagonalMemory(VectorMemory):
    """h_t = keep_t * h_{t-1} + new_t with gates that see the token alone, so that a piece is a parallel scan.

    Subclasses give `keep` in (0, 1) and `new` as inputs [R, M, H, V]. Inside a block of writes the scan doubles its reach
    (log2 of the block's length passes), blocks follow one another: no quotient is ever taken, so nothing overflows.
    """

    def __init__(self, cfg: LayerConfig, options: Any, parts: int):
        super().__init__(cfg, options)
        self.write = nn.Linear(cfg.d_model, parts * self.heads * self.val_dim)
        self.merges = (self.heads, 1, self.val_dim)

    def start_with(self, *biases: Tensor) -> None:
        """Biases [H] of each product to begin with: heads remember from about twenty to some hundred writes."""
        with torch.no_grad():
            self.write.bias.copy_(torch.stack(biases).unsqueeze(-1).expand(-1, -1, self.val_dim).reshape(-1))

    def parts(self, c: Tensor) -> tuple[Tensor, ...]:
        """The products of `write`, each [R, M, H, V], in float32 or wider."""
        found = logits(self.write, c).unflatten(-1, (-1, self.heads, self.val_dim))
        return found.unbind(-3)

    def fading(self, inputs: Inputs) -> Tensor:
        """log keep, of each channel."""
        return inputs["keep"].clamp(min=torch.finfo(inputs["keep"].dtype).tiny).log().unsqueeze(-2)

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> VectorWritten:
        """See Memory.scan."""
        keep, new, hidden = inputs["keep"], inputs["new"], cast(VectorState, state).hidden
        if valid is not None:
            there = valid[..., None, None]
            keep, new = keep.where(there, keep.new_ones(())), new * there
        pieces, slots = keep.shape[1:3]
        size = slots // -(-slots // self.chunk)
        keep, new = (x.flatten(1, 2).unflatten(1, (-1, size)) for x in (keep, new))
        reach = 1
        while reach < size:
            new = torch.cat([new[:, :, :reach], torch.addcmul(new[:, :, reach:], keep[:, :, reach:], new[:, :, :-reach])], 2)
            keep = torch.cat([keep[:, :, :reach], keep[:, :, reach:] * keep[:, :, :-reach]], 2)
            reach *= 2
        after = []
        for fade, more in zip(keep.unbind(1), new.unbind(1), strict=True):
            after.append(torch.addcmul(more, fade, hidden.unsqueeze(1)))
            hidden = after[-1][:, -1]
        seen = torch.stack(after, 1).flatten(1, 2).unflatten(1, (pieces, slots))
        return VectorWritten(seen.transpose(2, 3), VectorState(seen[:, :, -1]))

    def step(self, inputs: Inputs, shift: int, state: State) -> VectorState:
        """See Memory.step."""
        return VectorState(torch.addcmul(inputs["new"], inputs["keep"], cast(VectorState, state).hidden))
