"""Writes that are kept exactly: the surprise of each write of a call, and which kept writes each query sees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cache.exact import Kept, select
from ..memory.base import Inputs, Memory, ScanOutput
from ..ops.upcast import upcast
from ..schedule.call import CallSchedule, Geometry
from ..state.tree import State
from .window import ExtraKV, WindowAttention, WindowSchedule


def surprise(memory: Memory, inputs: Inputs, before: State, weigh: bool = False) -> Tensor:
    """sum over heads |v - M(k)|^2 [B] of one write, inputs [B, ...], into states [B, ...]; weigh: times the squared beta."""
    query, value = _predicted(memory, inputs)
    answer = _asked(memory, memory.read_factors(before), query.unsqueeze(-2))
    return _apart(value.unsqueeze(-2), answer, _beta(inputs, weigh)).squeeze(-1)


def surprises(memory: Memory, inputs: Inputs, written: ScanOutput, before: tuple[Tensor, ...], weigh: bool = False) -> Tensor:
    """The surprise [R, S, L] of every write slot, with the memory after the previous slot; before: read factors [R, S, ...] at
    the start of each segment chunk."""
    query, value = (x.transpose(2, 3) for x in _predicted(memory, inputs))  # [R, S, H, L, ...]
    first = _asked(memory, before, query[..., :1, :])
    later = ahead = query.roll(-1, 3)
    groups = next(iter(written.ends.leaves()))[1].shape[:2]  # of segments that restart, or that carry on
    for i in range(memory.factors_count):
        answers = written.read(i, later.flatten(0, 1).unflatten(0, groups))
        later = memory.activation(i, answers.flatten(0, 1).unflatten(0, query.shape[:2]), ahead)
    return _apart(value, torch.cat([first, later[..., :-1, :].to(first.dtype)], 3), _beta(inputs, weigh))


def _beta(inputs: Inputs, weigh: bool) -> Tensor | None:
    """[..., H, L, 1], or [..., H, 1, 1] of one write; None: 1."""
    if not weigh or "beta" not in inputs:
        return None
    beta = inputs["beta"].detach()
    return (beta.unsqueeze(-1) if beta.dim() == 2 else beta.transpose(-1, -2)).unsqueeze(-1)


def _predicted(memory: Memory, inputs: Inputs) -> tuple[Tensor, Tensor]:
    found = memory.predicted(inputs)
    assert found is not None
    return found[0].detach(), found[1].detach()


def _asked(memory: Memory, factors: tuple[Tensor, ...], query: Tensor) -> Tensor:
    """Read the memory: query [..., H, Q, in] -> [..., H, Q, V]."""
    out = query
    for i, matrices in enumerate(factors):
        out = memory.activation(i, out @ matrices.to(out.dtype), query)
    return out


def _apart(value: Tensor, answer: Tensor, beta: Tensor | None) -> Tensor:
    """Squared distance times beta, summed over heads: [..., H, Q, V] twice -> [..., Q]."""
    apart = upcast(value) - upcast(answer)
    return (apart if beta is None else upcast(beta) * apart).square().sum((-3, -1)).detach()


def one_more(kept: Kept, surprise: Tensor, number: Tensor, pair: tuple[Tensor, Tensor]) -> Kept:
    """What is kept after one more write: surprise [B], its number in the row's life [B], key and value [B, rate, ...]."""
    key, value = (x.unsqueeze(1) for x in pair)
    return kept.and_one(Kept(surprise.unsqueeze(1), number.unsqueeze(1), key, value))


class Plan(NamedTuple):
    """Kept writes in a call of n blocks of queries.

    key, value  [R, n, J, N, ...] of all tokens that are kept in a block
    seen        bool [R, n, Q, N / rate], which writes each query sees
    number      int64 [R, n * N / rate], the numbers of the writes
    at          int64 [R or 1, n, Q, 1], positions of the queries
    after       what is kept after the call
    """

    key: Tensor
    value: Tensor
    seen: Tensor
    number: Tensor
    at: Tensor
    after: Kept


def plan(pair: tuple[Tensor, Tensor], surprise: Tensor, kept: Kept, schedule: CallSchedule, block: int) -> Plan:
    """Keys and values [R, M, rate, J, ...] of all writes of a call, and the surprise [R, S, L] of its write slots; the schedule
    counts updates of one or more writes."""
    geo, most, m = schedule.geo, pair[0].shape[1], np.arange(pair[0].shape[1])[None]
    group = most // schedule.most
    there = schedule.host(m < group * schedule.writes[:, None])
    slot = schedule.host(group * np.repeat(schedule.write_back, group, 1) + m % group)
    new = Kept(
        surprise.flatten(1).gather(1, slot).masked_fill(~there, -torch.inf),
        schedule.host(group * schedule.writes0[:, None] + m),
        *pair,
    )
    blocks = -(-schedule.packed.width // block)
    position, query = schedule.packed.positions.position[:, None], np.arange(blocks * block)[None]
    done = np.minimum(geo.written(position + query + 1) - schedule.writes0[:, None], schedule.writes[:, None])
    done = group * done.reshape(len(done), blocks, block)
    first = np.concatenate([np.zeros_like(done[:, :1, 0]), done[:, :-1, -1]], 1)
    count, longest = done[..., -1] - first, int((done[..., -1] - first).max(initial=0))
    every, size = kept.then(new), kept.number.shape[1]
    found, until, held = select(every.surprise, size, schedule.host(first), schedule.host(count), longest)
    since = schedule.host(np.maximum(np.arange(size + longest) - size + 1, 0))
    made = schedule.host(done - first[..., None]).unsqueeze(-1)  # [R, n, Q, 1] writes of the block that each query sees
    seen, writes = (since <= made) & (made < until.unsqueeze(2)), every.at(found.flatten(1))
    key, value = (x.unflatten(1, (blocks, -1)).flatten(2, 3).transpose(2, 3) for x in (writes.key, writes.value))
    at = schedule.host((position + query).reshape(done.shape)).unsqueeze(-1)
    return Plan(key, value, seen, writes.number, at, every.at(held))


def planned(
    window: WindowAttention, kept: Kept, surprise: Tensor, tokens: Tensor, schedule: CallSchedule, by: WindowSchedule
) -> tuple[ExtraKV, Kept]:
    """The kept writes that each query of a call sees, per block of the window; and the kept writes after the call.

    surprise [R, 1, L] of the write slots, tokens [R, M, rate, D] of the writes.
    """
    found = plan(window.written(tokens), surprise, kept, schedule, by.block)
    return _further(schedule.geo, found, tokens.shape[2]), found.after


def now(geo: Geometry, kept: Kept, position: Tensor) -> ExtraKV:
    """What the token of each row, at its position [B], sees of what is kept."""
    seen = (kept.surprise > -torch.inf)[:, None, None]
    key, value = (x.unsqueeze(1).flatten(2, 3).transpose(2, 3) for x in (kept.key, kept.value))
    return _further(geo, Plan(key, value, seen, kept.number, position.view(-1, 1, 1, 1), kept), kept.key.shape[2])


def _further(geo: Geometry, found: Plan, rate: int) -> ExtraKV:
    """The tokens of writes that are beyond the window."""
    seen, blocks = found.seen, found.seen.shape[1]
    if rate > 1:
        seen = seen.repeat_interleave(rate, -1)
    if not geo.delay:  # written tokens may still be in the window
        token = geo.sinks + found.number.unsqueeze(-1) * rate + torch.arange(rate, device=seen.device)
        seen = seen & (token.flatten(1).unflatten(1, (blocks, 1, -1)) <= found.at - geo.window)
    return ExtraKV(found.key, found.value, seen.unsqueeze(2))
