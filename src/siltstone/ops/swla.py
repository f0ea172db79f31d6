"""Sliding-window linear attention of two: S_t = a_t S_{t-1} + b_t k_{t-1}^T v_{t-1} + l_t k_t^T v_t, o = q S.

Source: arXiv 2602.24281 (SWLA, c = 2). A state is S [..., H, K, V] and the last key [..., H, K] and value [..., H, V], float32 or
wider; before the first write they are 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunked import chunks, decays, length, masked, outer
from .upcast import upcast
from .weighted import WeightedRead, weighted

Leaves = tuple[Tensor, Tensor, Tensor]


def step(state: Leaves, key: Tensor, value: Tensor, log_decay: Tensor, again: Tensor, beta: Tensor) -> Leaves:
    """One write: key [..., H, K], value [..., H, V], log a, b (`again`) and l (`beta`) [..., H]."""
    (matrix, last_key, last_value), key, value = state, upcast(key), upcast(value)
    again, beta = again.unsqueeze(-1), beta.unsqueeze(-1)
    new = torch.addcmul(outer(key, beta * value), last_key.unsqueeze(-1), (again * last_value).unsqueeze(-2))
    return torch.addcmul(new, log_decay.exp()[..., None, None], matrix), key, value


def chunk(
    state: Leaves,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    again: Tensor,
    beta: Tensor,
    *,
    valid: Tensor | None = None,
    size: int = 64,
) -> tuple[WeightedRead, Leaves]:
    """`step` for [G, S, L, H, ...] each -> a reader of S, and the state after each segment chunk, leaves [G, S, H, ...].

    A chunk of c slots has c + 1 keys: the previous write's key, and its own.
    """
    segment_chunks, slots = log_decay.shape[1:3]
    c = length(slots, size)
    log_decay, again, beta = (chunks(masked(x, valid), c) for x in (log_decay, again, beta))
    level = log_decay.cumsum(-1)
    log_decay = decays(level, 1)
    weight = F.pad(log_decay * again.unsqueeze(-2), (0, 1)) + F.pad(log_decay * beta.unsqueeze(-2), (1, 0))
    held = [_held(x, start, valid) for x, start in zip((key, value), state[1:], strict=True)]
    last_key, last_value = (upcast(x[:, slots::slots]).clone() for x in held)
    keys, values = (_overlapping(x, segment_chunks, c) for x in held)
    reader, ends = weighted(keys, values, weight, level.exp(), state[0])
    return reader, (ends, last_key, last_value)


def _held(x: Tensor, start: Tensor, valid: Tensor | None) -> Tensor:
    """Writes [G, S, L, H, ...] -> the last write up to each slot, preceded by `start` [G, H, ...]: [G, 1 + S*L, H, ...]."""
    both = torch.cat([start.to(x.dtype).unsqueeze(1), x.flatten(1, 2)], 1)
    if valid is None:
        return both
    slot = torch.arange(1, both.shape[1], device=x.device)
    last = F.pad((slot * valid.flatten(1)).cummax(1).values, (1, 0))
    return both.gather(1, last[..., None, None].expand_as(both))


def _overlapping(x: Tensor, segment_chunks: int, size: int) -> Tensor:
    """[G, 1 + S*L, H, ...] -> chunks, each with the slot before it: [G, S, H, L/size, 1 + size, ...]."""
    return x.unfold(1, size + 1, size).unflatten(1, (segment_chunks, -1)).permute(0, 1, 3, 2, 5, 4).contiguous()
