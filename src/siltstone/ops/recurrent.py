"""Recurrent networks over the writes of a segment chunk, one call each: shared by gru, lstm and slstm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .vector import VectorRead

Leaves = tuple[Tensor, ...]
Run = Callable[[Tensor, Leaves, Tensor | None], tuple[Tensor, Leaves]]


def chunk(run: Run, state: Leaves, token: Tensor, valid: Tensor | None, skip: Tensor | None) -> tuple[VectorRead, Leaves]:
    """Segment chunks in order: state (h, ...), leaves [G, H, V], token [G, S, L, ...] -> a reader of h, leaves [G, S, H, V].

    run: token [G, L, ...], state, count [G] (None: all) -> h after each token [G, L, H*V], and the other leaves [G, H, V] after
    `count` tokens. skip int [G, S]: empty slots before a segment chunk's first write; its valid slots are contiguous.
    """
    segment_chunks, slots = token.shape[1:3]
    shape = state[0].shape[1:]
    slot = torch.arange(slots, device=token.device)
    seen, ends = [], []
    for s in range(segment_chunks):
        segment_chunk, before, count = token[:, s], state[0].flatten(1), None
        if valid is not None:  # shift the segment chunk's writes to the front, before its empty slots
            assert skip is not None
            segment_chunk = segment_chunk.gather(
                1, (slot + skip[:, s, None]).clamp(max=slots - 1)[..., None].expand_as(segment_chunk)
            )
            count = valid[:, s].sum(-1)
        after, rest = run(segment_chunk, state, count)
        if count is None or skip is None:
            hidden = after[:, -1]
            seen.append(after)
        else:
            both = torch.cat([before[:, None], after], 1)
            at = torch.minimum(slot - skip[:, s, None] + 1, count[:, None]).clamp(min=0)
            seen.append(both.gather(1, at[..., None].expand(-1, -1, both.shape[-1])))
            hidden = both.gather(1, count[:, None, None].expand(-1, 1, both.shape[-1]))[:, 0]
        state = hidden.unflatten(-1, shape), *rest
        ends.append(state)
    reader = VectorRead(torch.stack(seen, 1).unflatten(-1, shape).transpose(2, 3))
    return reader, tuple(torch.stack(leaf, 1) for leaf in zip(*ends, strict=True))
