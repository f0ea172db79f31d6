"""cache="exact" in a call: the surprise of each write, and which kept writes each query sees."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cache.exact import Kept, select
from ..memory.base import Inputs, Memory, ScanOutput
from ..ops.upcast import upcast
from ..schedule.call import CallSchedule, Geometry
from ..state.tree import State
from .window import ExtraKV, WindowAttention, WindowSchedule


def surprise(memory: Memory, inputs: Inputs, before: State) -> Tensor:
    """sum over heads |v - M(k)|^2 [B] of one write, inputs [B, ...], into states [B, ...]."""
    query, value = _predicted(memory, inputs)
    return _apart(value.unsqueeze(-2), _asked(memory, before, query.unsqueeze(-2))).squeeze(-1)


def surprises(memory: Memory, inputs: Inputs, written: ScanOutput, before: State) -> Tensor:
    """The surprise [R, L] of every write slot of runs of one segment chunk, each with the memory after the previous slot."""
    query, value = (x.transpose(2, 3) for x in _predicted(memory, inputs))  # [R, 1, H, L, ...]
    first = _asked(memory, before, query[:, 0, :, :1])
    later = ahead = query.roll(-1, 3)
    for i in range(memory.factors_count):
        later = memory.activation(i, written.read(i, later), ahead)
    return _apart(value[:, 0], torch.cat([first, later[:, 0, :, :-1].to(first.dtype)], 2))


def _predicted(memory: Memory, inputs: Inputs) -> tuple[Tensor, Tensor]:
    found = memory.predicted(inputs)
    assert found is not None
    return found[0].detach(), found[1].detach()


def _asked(memory: Memory, state: State, query: Tensor) -> Tensor:
    """Read the memory: query [B, H, Q, in] -> [B, H, Q, V]."""
    out = query
    for i, matrices in enumerate(memory.read_factors(state)):
        out = memory.activation(i, out @ matrices.to(out.dtype), query)
    return out


def _apart(value: Tensor, answer: Tensor) -> Tensor:
    """Squared distance, summed over heads: [B, H, Q, V] twice -> [B, Q]."""
    return (upcast(value) - upcast(answer)).square().sum((1, 3)).detach()


def one_more(window: WindowAttention, kept: Kept, surprise: Tensor, number: Tensor, tokens: Tensor) -> Kept:
    """What is kept after one more write: surprise [B], its number in the row's life [B], its tokens [B, rate, D]."""
    key, value = window.written(tokens.unsqueeze(1))
    return kept.and_one(Kept(surprise.unsqueeze(1), number.unsqueeze(1), key, value))


def now(geo: Geometry, kept: Kept, position: Tensor) -> ExtraKV:
    """What the token of each row, at its position [B], sees of what is kept."""
    seen = (kept.surprise > -torch.inf)[:, None, None].expand(-1, -1, 1, -1)
    return _further(geo, kept, seen, position.view(-1, 1, 1, 1), 1)


def planned(
    window: WindowAttention, kept: Kept, surprise: Tensor, tokens: Tensor, schedule: CallSchedule, by: WindowSchedule
) -> tuple[ExtraKV, Kept]:
    """The kept writes that each query of a call sees, per block of the window; and the kept writes after the call.

    surprise [R, L] of the write slots, tokens [R, M, rate, D] of the writes; the schedule counts updates of one or more writes.
    """
    geo, (most, rate) = schedule.geo, tokens.shape[1:3]
    group, m = geo.rate // rate, np.arange(most)[None]
    there = schedule.host(m < group * schedule.writes[:, None])
    slot = schedule.host(np.minimum(group * schedule.skip + m, surprise.shape[1] - 1))
    key, value = window.written(tokens)
    new = Kept(
        surprise.gather(1, slot).masked_fill(~there, -torch.inf), schedule.host(group * schedule.writes0[:, None] + m), key, value
    )
    position, query = schedule.packed.positions.position[:, None], np.arange(by.blocks * by.block)[None]
    done = np.minimum(geo.written(position + query + 1) - schedule.writes0[:, None], schedule.writes[:, None])
    done = group * done.reshape(len(done), by.blocks, by.block)
    first = np.concatenate([np.zeros_like(done[:, :1, 0]), done[:, :-1, -1]], 1)
    count, longest = done[..., -1] - first, int((done[..., -1] - first).max(initial=0))
    every, size = kept.then(new), kept.number.shape[1]
    found, until, held = select(every.surprise, size, schedule.host(first), schedule.host(count), longest)
    since = schedule.host(np.maximum(np.arange(size + longest) - size + 1, 0))
    made = schedule.host(done - first[..., None]).unsqueeze(-1)  # [R, n, Q, 1] writes of the block that each query sees
    seen = (since <= made) & (made < until.unsqueeze(2))
    at = schedule.host((position + query).reshape(done.shape)).unsqueeze(-1)
    return _further(geo, every.at(found.flatten(1)), seen, at, by.blocks), every.at(held)


def _further(geo: Geometry, writes: Kept, seen: Tensor, at: Tensor, blocks: int) -> ExtraKV:
    """writes [R, n * C], seen bool [R, n, Q, C], at [R or 1, n, Q, 1] positions of the queries: tokens beyond the window."""
    key, value = (x.unflatten(1, (blocks, -1)).flatten(2, 3).transpose(2, 3) for x in (writes.key, writes.value))
    rate = writes.key.shape[2]
    if rate > 1:
        seen = seen.repeat_interleave(rate, -1)
    if not geo.delay:  # written tokens may still be in the window
        token = geo.sinks + writes.number.unsqueeze(-1) * rate + torch.arange(rate, device=at.device)
        seen = seen & (token.flatten(1).unflatten(1, (blocks, 1, -1)) <= at - geo.window)
    return ExtraKV(key, value, seen.unsqueeze(2))
