"""Memories with one vector per head: reads, and the recurrence of rules whose gates depend on the token alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .chunked import Reader, last_seen, length


class VectorRead(Reader):
    """after [G, S, H, L, V]: the hidden state at each write slot."""

    def __init__(self, after: Tensor):
        self.after = after

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, 1] is 1 everywhere."""
        after, slots = self.after.to(z.dtype), self.after.shape[3]
        if slots == z.shape[3] and group == 1:
            return after
        return after.index_select(3, last_seen(slots, z.shape[3], group, z.device))


def step(hidden: Tensor, keep: Tensor, new: Tensor) -> Tensor:
    """h <- keep h + new, each [..., H, V]."""
    return torch.addcmul(new, keep, hidden)


def chunk(hidden: Tensor, keep: Tensor, new: Tensor, *, valid: Tensor | None = None, size: int = 64) -> tuple[VectorRead, Tensor]:
    """`step` for hidden [G, H, V], keep and new [G, S, L, H, V] -> a reader of h, and h after each segment chunk [G, S, H, V].

    Inside a block of writes the scan doubles its reach (log2 of the block length passes); blocks run one after the other. There
    is no division, so nothing overflows.
    """
    if valid is not None:
        there = valid[..., None, None]
        keep, new = keep.where(there, keep.new_ones(())), new * there
    segment_chunks, slots = keep.shape[1:3]
    block = length(slots, size)
    keep, new = (x.flatten(1, 2).unflatten(1, (-1, block)) for x in (keep, new))
    reach = 1
    while reach < block:
        new = torch.cat([new[:, :, :reach], torch.addcmul(new[:, :, reach:], keep[:, :, reach:], new[:, :, :-reach])], 2)
        keep = torch.cat([keep[:, :, :reach], keep[:, :, reach:] * keep[:, :, :-reach]], 2)
        reach *= 2
    after = []
    for fade, more in zip(keep.unbind(1), new.unbind(1), strict=True):
        after.append(torch.addcmul(more, fade, hidden.unsqueeze(1)))
        hidden = after[-1][:, -1]
    seen = torch.stack(after, 1).flatten(1, 2).unflatten(1, (segment_chunks, slots))
    return VectorRead(seen.transpose(2, 3)), seen[:, :, -1]
