"""cache="blocks", one token of each row at positions of their own: the host chooses blocks beforehand, the rest is tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops import rope
from ..schedule.blocks import Law
from ..schedule.packed import RowPositions
from .blocks_state import BlocksState
from .context import StepContext, put


def reserved(law: Law, state: BlocksState, active: np.ndarray) -> BlocksState:
    """With room for one more token, and for the routing key that it may complete."""
    count = state.cache.count
    means = state.means.reserve((law.parts(count + active) - law.parts(count)).astype(np.int64))
    return replace(state, cache=state.cache.reserve(active.astype(np.int64)), means=means)


@torch.no_grad()
def renewed(mixer: Any, state: BlocksState, positions: RowPositions, active: np.ndarray) -> BlocksState:
    """With the blocks of the group that begins at the next token, in the active rows where one begins."""
    law, position = mixer.law, positions.position
    sealed = law.sealed(position)
    rows = np.flatnonzero(active & (position % law.every == 0) & (sealed > 0))
    if not len(rows):
        return state
    device = state.chosen.device
    index = torch.from_numpy(rows).to(device)
    turn = torch.from_numpy((position[rows, None] + np.arange(law.queries)) % law.queries).to(device)
    query = state.recent[index[:, None], turn].unsqueeze(1)
    there = torch.from_numpy(sealed[rows, None]).to(device)
    width = int(sealed[rows].max()) * (law.block // law.part)
    summaries = state.means.views(max(width, 1))[0]
    summaries = summaries if len(rows) == len(state.chosen) else summaries.index_select(0, index)
    made = torch.from_numpy(law.sealed(position[rows, None, None] + np.arange(-law.queries, 0))).to(device)
    best = mixer.best(query, summaries, there, made)[:, 0]
    if len(rows) == len(state.chosen):
        return replace(state, chosen=best)
    return replace(state, chosen=state.chosen.index_copy(0, index, best))


def step(mixer: Any, x: Tensor, state: BlocksState, context: StepContext) -> tuple[Tensor, BlocksState]:
    """One token of each row, x [B, 1, D]; the stores have room for it, and count it."""
    cfg, law, position, rows = mixer.cfg, mixer.law, context.position, context.rows
    x, conv = mixer.conv.step(x, state.conv, context)
    asked, v = mixer.window.project(x)
    q, k = asked.split([cfg.heads, cfg.key_heads], 2)
    cache = state.cache.put(rows, position, (k[:, 0], v[:, 0]), context.active, context.inplace)
    keys, values = cache.leaves
    recent = put(state.recent, q.detach(), context)
    read = position + 1 - law.sinks
    whole = (read > 0) & (read % law.part == 0)
    latest = (position[:, None] + torch.arange(1 - law.part, 1, device=x.device)).clamp(min=0)
    mean = keys[rows[:, None], latest].mean(1).detach()
    whole = whole if context.active is None else whole & context.active
    place = ((position - law.sinks) // law.part).clamp(min=0)
    means = state.means.put(rows, place, (mean,), whole, context.inplace)
    q, key, value, mask = buffer(mixer, q, (keys, values), state.chosen, context)
    out = mixer.window.attend(q, key, value, mask).transpose(1, 2)
    return mixer.out(out.flatten(2)), replace(state, cache=cache, means=means, recent=recent, conv=conv)


def buffer(
    mixer: Any, q: Tensor, cache: tuple[Tensor, ...], picked: Tensor, context: StepContext
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the queries q [B, 1, H, K] (not rotated) attend to: q [B, H, 1, K] and keys [B, J, N, K] rotated, values
    [B, J, N, V], and which of them are seen, bool [B, 1, 1, N]. In order: sinks, the blocks `picked` [B, J, most], near tokens.
    """
    cfg, law, position, rows = mixer.cfg, mixer.law, context.position, context.rows
    keys, values = cache
    group = law.group(position)
    sealed = law.sealed(group)
    chosen = sealed.clamp(max=law.most) * law.block
    start = law.sinks + sealed * law.block
    far, near = law.most * law.block, law.near
    if context.longest is not None:
        longest = law.group(context.longest - 1)
        far = min(far, int(law.sealed(np.int64(longest))) * law.block)
        near = min(near, context.longest)
    j = torch.arange(far, device=q.device)
    token = start[:, None] + torch.arange(near, device=q.device)
    heads = torch.arange(cfg.key_heads, device=q.device)
    block = picked[:, :, : far // law.block]
    places = law.sinks + (block[..., None] * law.block + torch.arange(law.block, device=q.device)).flatten(2)  # [B, J, far]
    last = keys.shape[1] - 1
    sees = [j < chosen[:, None], token <= position[:, None]]
    near_at = token.clamp(max=last)
    parts = [(keys[rows[:, None], near_at].transpose(1, 2), values[rows[:, None], near_at].transpose(1, 2))]
    if far:
        index = rows[:, None, None], places.clamp(max=last), heads[:, None]
        parts.insert(0, (keys[index], values[index]))
    else:
        del sees[0]
    if law.sinks:
        sink = torch.arange(law.sinks, device=q.device)
        at = sink.clamp(max=last)
        parts.insert(0, (keys[:, at].transpose(1, 2), values[:, at].transpose(1, 2)))
        sees.insert(0, sink <= position[:, None])
    key, value = (torch.cat([part[i] for part in parts], 2).to(q.dtype) for i in range(2))  # [B, J, N, ...]
    if cfg.position == "rope":
        begin = law.sinks + chosen[:, None]
        here = torch.cat([torch.arange(law.sinks + far, device=q.device).expand(len(q), -1), begin + token - start[:, None]], 1)
        cos, sin = rope.turned(here, cfg.key_dim, q.dtype, cfg.base)
        key = rope.rotate(key.transpose(1, 2), (cos, sin)).transpose(1, 2)
        q = rope.rotate(q, rope.turned(begin + position[:, None] - start[:, None], cfg.key_dim, q.dtype, cfg.base))
    return q.transpose(1, 2), key, value, torch.cat(sees, 1)[:, None, None]
