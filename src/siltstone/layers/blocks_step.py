"""cache="blocks", one token of each row at positions of their own: the host seals and chooses blocks beforehand, the rest is
tensors whose shapes do not depend on the length of a text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops import rope
from ..schedule.blocks import BlockSchedule
from ..schedule.packed import PackedBatch, RowPositions
from ..schedule.window import Ring
from . import blocks_kept
from .blocks_call import BlockCall
from .blocks_choice import Asking, Groups, Votes, choose
from .blocks_state import BlocksState
from .context import StepContext, put


@torch.no_grad()
def renewed(mixer: Any, state: BlocksState, positions: RowPositions, active: np.ndarray, votes: Votes) -> BlocksState:
    """With the blocks of the group that begins at the next token, in the active rows where one begins."""
    law, position = mixer.law, positions.position
    rows = np.flatnonzero(active & law.chooses(positions))
    if not len(rows):
        return state
    if law.budget is not None:
        return _over_budget(mixer, state, positions, rows, votes)
    state, index = _sealed(mixer, state, position, rows), torch.from_numpy(rows).to(state.chosen.device)
    whole = len(rows) == len(position)
    sealed = law.ahead(position[rows])
    width = int(sealed.max())
    means = state.means.views(width)
    means = means if whole else tuple(x.index_select(0, index) for x in means)
    query, groups = _asking(mixer, state, position[rows], index, torch.arange(width, device=index.device)[None])
    asking = Asking(positions.from_here()[rows][:, None], state.kept, votes, index)
    best = choose(mixer.cfg, law, query, means, groups, law.two_stages(sealed[:, None]) & ~asking.here, asking)
    far = mixer.turned_far(*(x[:, 0] for x in blocks_kept.taken(state.kept, best, query.dtype, index)))
    if whole:
        return replace(state, chosen=best[:, 0], far=far)
    far = tuple(x.index_copy(0, index, y) for x, y in zip(state.far, far, strict=True))
    return replace(state, chosen=state.chosen.index_copy(0, index, best[:, 0]), far=far)


def _sealed(mixer: Any, state: BlocksState, position: np.ndarray, rows: np.ndarray) -> BlocksState:
    """With the blocks that the given rows seal."""
    law, before = mixer.law, state.kept.count
    added = np.zeros_like(before)
    added[rows] = law.ahead(position[rows]) - before[rows]
    new = int(added.max())
    if not new:
        return state
    token = law.sinks + before[:, None] * law.block + np.arange(new * law.block)
    token = torch.from_numpy(token % law.near).to(state.chosen.device)
    row = torch.arange(len(before), device=token.device)[:, None]
    kept, means = blocks_kept.stored(mixer.cfg, *(x[row, token].unflatten(1, (new, law.block)) for x in state.near))
    spans = law.spans(before[:, None] + np.arange(new))
    return replace(state, kept=state.kept.append(kept, added, spans), means=state.means.append(means, added))


@torch.no_grad()
def renewed_where(mixer: Any, state: BlocksState, position: Tensor, now: Tensor) -> BlocksState:
    """`renewed` in tensors alone, in the rows `now` bool [B]: their next tokens, at position int64 [B], begin groups. The stores
    have room; there is no budget, and one stage of choice."""
    law = mixer.law
    before = law.offered(position)
    rows, most = torch.arange(len(now), device=now.device), -(-law.every // law.block)
    sealed = law.ahead(position)
    token = law.sinks + before[:, None] * law.block + torch.arange(most * law.block, device=now.device)
    blocks = (x[rows[:, None], token % law.near].unflatten(1, (most, law.block)) for x in state.near)
    kept, means = blocks_kept.stored(mixer.cfg, *blocks)
    for i in range(most):
        here, place = now & (before + i < sealed), before + i
        place = torch.where(here, place, 0)
        state = replace(
            state,
            kept=state.kept.put(rows, place, tuple(x[:, i] for x in kept), here, inplace=False),
            means=state.means.put(rows, place, tuple(x[:, :, i] for x in means), here, inplace=False),
        )
    routing = state.means.views()
    turn = (position[:, None] + torch.arange(law.queries, device=now.device)) % law.queries
    made = law.sealed(position[:, None, None] + torch.arange(-law.queries, 0, device=now.device))
    groups = Groups(sealed[:, None], made, torch.arange(routing[0].shape[2], device=now.device)[None])
    query = state.recent[rows[:, None], turn].unsqueeze(1)
    best = choose(mixer.cfg, law, query, routing, groups)
    far = mixer.turned_far(*(x[:, 0] for x in blocks_kept.taken(state.kept, best, query.dtype, rows)))
    kept_far = tuple(torch.where(now.view(-1, 1, 1, 1), y.to(x.dtype), x) for x, y in zip(state.far, far, strict=True))
    return replace(state, chosen=torch.where(now[:, None, None], best[:, 0], state.chosen), far=kept_far)


def _over_budget(mixer: Any, state: BlocksState, positions: RowPositions, rows: np.ndarray, votes: Votes) -> BlocksState:
    """As a call of one token, which nothing depends on, in the given rows."""
    batch, length = len(positions.position), np.zeros(len(positions.position), np.int64)
    length[rows] = 1
    every = np.arange(batch)
    packed = PackedBatch(every, np.zeros(batch, bool), positions, length, None, every, (batch, 1))
    call = BlockCall(mixer, state, BlockSchedule(packed, mixer.law, state.chosen.device))
    call.seal(*(Ring(packed, mixer.law.near, x.device).extend(x, torch.zeros_like(x[:, :1])) for x in state.near))
    recent = state.recent
    picked = call.choose(Ring(packed, mixer.law.queries, recent.device).extend(recent, torch.zeros_like(recent[:, :1])), votes)
    far = None if picked is None else mixer.turned_far(*call.taken(picked, recent.dtype))
    return call.after(picked, far)


def _asking(mixer: Any, state: BlocksState, position: np.ndarray, index: Tensor, number: Tensor) -> tuple[Tensor, Groups]:
    """The queries before the group that begins at `position` in the rows `index`, and the group."""
    law, device = mixer.law, index.device
    turn = torch.from_numpy((position[:, None] + np.arange(law.queries)) % law.queries).to(device)
    made = law.sealed(position[:, None, None] + np.arange(-law.queries, 0))
    sealed = torch.from_numpy(law.ahead(position)[:, None]).to(device)
    query = state.recent[index[:, None], turn].unsqueeze(1)
    return query, Groups(sealed, torch.from_numpy(made).to(device), number)


def step(mixer: Any, x: Tensor, state: BlocksState, context: StepContext) -> tuple[Tensor, BlocksState]:
    """One token of each row, x [B, 1, D]."""
    cfg, law = mixer.cfg, mixer.law
    x, conv = mixer.conv.step(x, state.conv, context)
    asked, v = mixer.window.project(x)
    q, k = asked.split([cfg.heads, cfg.key_heads], 2)
    near = tuple(put(ring, new, context) for ring, new in zip(state.near, (k, v), strict=True))
    sinks = tuple(_sink(law.sinks, held, new, context) for held, new in zip(state.sinks, (k, v), strict=True))
    state = replace(state, near=near, sinks=sinks, recent=put(state.recent, q.detach(), context), conv=conv)
    q, key, value, mask = buffer(mixer, q, state, context)
    out = mixer.window.attend(q, key, value, mask).transpose(1, 2)
    return mixer.out(out.flatten(2)), state


def _sink(sinks: int, held: Tensor, new: Tensor, context: StepContext) -> Tensor:
    """The sinks [B, sinks, ...] with the token [B, 1, ...] of each row that is active and at the position of one."""
    if not sinks or context.at is not None and context.at >= sinks:
        return held
    now = torch.arange(sinks, device=held.device) == context.position[:, None]
    now = now if context.active is None else now & context.active[:, None]
    return torch.where(now.view(*now.shape, *(1,) * (held.dim() - 2)), new.to(held.dtype), held)


def buffer(mixer: Any, q: Tensor, state: BlocksState, context: StepContext) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the queries q [B, 1, H, K] (not rotated) attend to: q [B, H, 1, K] and keys [B, J, N, K] rotated, values
    [B, J, N, V], and which of them are seen, bool [B, 1, 1, N]. In order: sinks, chosen blocks, near tokens.
    """
    cfg, law, position, rows = mixer.cfg, mixer.law, context.position, context.rows
    sealed = law.ahead(position)
    chosen = law.held(sealed).clamp(max=law.most) * law.block
    start = law.sinks + sealed * law.block
    far, near = law.most * law.block, law.near
    if context.longest is not None:
        longest = law.held(law.sealed(law.group(np.int64(context.longest - 1))))
        far, near = min(far, int(longest) * law.block), min(near, context.longest)
    token = start[:, None] + torch.arange(near, device=q.device)
    sink = torch.arange(law.sinks, device=q.device)
    begin = law.sinks + chosen[:, None]
    keys, values = (x[rows[:, None], token % law.near].to(q.dtype) for x in state.near)
    first = [x.to(q.dtype) for x in state.sinks]
    if cfg.position == "rope":
        places = begin + token - start[:, None], begin + (position - start)[:, None], sink
        by = [context.turned((law, i), at, cfg.key_dim, q.dtype, cfg.base) for i, at in enumerate(places)]
        keys, q = rope.rotate(keys, by[0]), rope.rotate(q, by[1])
        if law.sinks:
            first[0] = rope.rotate(first[0], by[2])
    sees = [token <= position[:, None]]
    parts: list[tuple[Tensor, ...]] = [(keys.transpose(1, 2), values.transpose(1, 2))]
    if far:
        parts.insert(0, tuple(x[:, :, :far].to(q.dtype) for x in state.far))
        sees.insert(0, torch.arange(far, device=q.device) < chosen[:, None])
    if law.sinks:
        parts.insert(0, tuple(x.transpose(1, 2) for x in first))
        sees.insert(0, sink <= position[:, None])
    key, value = (torch.cat([part[i] for part in parts], 2) for i in range(2))  # [B, J, N, ...]
    return q.transpose(1, 2), key, value, torch.cat(sees, 1)[:, None, None]
