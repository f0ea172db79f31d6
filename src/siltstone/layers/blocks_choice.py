"""cache="blocks": which blocks the queries before a group choose, and which are dropped over budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..schedule.blocks import Law
from .blocks_kept import Leaves, scores

STEPS = 1 << 12  # masses are compared in steps of 1 / STEPS, so that rounding seldom decides; ties go to the latest block
SCORES = 1 << 24  # scores of sub-blocks that are computed at a time
NOBODY = 1 << 60  # the number of a place without a block


@dataclass(frozen=True)
class Groups:
    """Groups of tokens that choose, in R runs; [R or 1, ...] of the same tensors.

    sealed   int64 [R, n], blocks that have been sealed for the group
    made     int64 [R, n, q], blocks that were sealed when each query was made
    number   int64 [R, N], the block in each place, in ascending order; NOBODY: none
    """

    sealed: Tensor
    made: Tensor
    number: Tensor

    def part(self, first: int, end: int) -> Groups:
        """Some of the groups."""
        return replace(self, sealed=self.sealed[:, first:end], made=self.made[:, first:end])


@dataclass(frozen=True)
class Held:
    """Places [R, N] with a block that is not dropped; with evict="use" also its mass in steps, and the queries that gave it."""

    alive: Tensor
    used: Tensor | None = None
    asked: Tensor | None = None


@torch.no_grad()
def choose(cfg: LayerConfig, law: Law, query: Tensor, means: Leaves, groups: Groups) -> Tensor:
    """The places [R, n, J, most] of the blocks with the most mass, in order; those without a block are 0.

    query [R, n, q, H, K], means as in `blocks_kept`. Over budget the latest blocks are held.
    """
    size = max(1, query.shape[0] * law.queries * cfg.heads * means[0].shape[2] * (law.block // law.part))
    step, found = max(1, SCORES // size), []
    for first in range(0, query.shape[1], step):
        some = groups.part(first, first + step)
        there = _there(law, some)
        mass = _masses(cfg, law, query[:, first : first + step], means, some, there)
        found.append(_best(law, mass, there))
    return torch.cat(found, 1)


@torch.no_grad()
def choose_and_count(
    cfg: LayerConfig, law: Law, query: Tensor, means: Leaves, groups: Groups, held: Held, since: tuple[Tensor, np.ndarray]
) -> tuple[Tensor, Held]:
    """`choose` with evict="use", one group after the other, and what is held after the last.

    since   int64 [R, 1], blocks that had been sealed for the group before the call, and bool [R, n], groups that begin in the run
    """
    offered, live = since
    assert law.budget is not None and held.used is not None and held.asked is not None
    alive, used, asked, found = held.alive, held.used, held.asked, []
    for g in range(query.shape[1]):
        now, one = torch.from_numpy(live[:, g].copy()).to(alive.device)[:, None], groups.part(g, g + 1)
        alive = _within(law, alive | (one.number >= offered) & (one.number < one.sealed) & now, used, asked)
        offered = one.sealed
        mass = _masses(cfg, law, query[:, g : g + 1], means, one, alive[:, None])
        found.append(_best(law, mass, alive[:, None]))
        counted = now & alive
        used = used + torch.where(counted, mass[:, :, 0].sum(1), 0)
        seen = (one.number[:, None] < one.made[:, 0, :, None]).sum(1)
        asked = asked + torch.where(counted, seen, 0)
    return torch.cat(found, 1), Held(alive, used, asked)


def _within(law: Law, alive: Tensor, used: Tensor, asked: Tensor) -> Tensor:
    """Without the blocks that have the least mass a query, as many as there are over budget; of equals the oldest go first, and
    blocks that no query has seen go last."""
    assert law.budget is not None
    worth = torch.where(asked > 0, used.double() / asked.clamp(min=1), 1e300)
    order = worth.masked_fill(~alive, float("inf")).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return alive & (rank >= alive.sum(1, keepdim=True) - law.budget)


def _there(law: Law, groups: Groups) -> Tensor:
    """bool [R or 1, n, N]: the blocks that each group can choose from."""
    number, sealed = groups.number[:, None], groups.sealed[..., None]
    there = number < sealed
    return there if law.budget is None else there & (number >= sealed - law.budget)


def _masses(cfg: LayerConfig, law: Law, query: Tensor, means: Leaves, groups: Groups, there: Tensor) -> Tensor:
    """The mass of each block in whole steps, int64 [R, J, n, N], over those that are there; query [R, n, q, H, K]."""
    parts = law.block // law.part
    query = query.unflatten(3, (cfg.key_heads, -1)).permute(0, 3, 1, 2, 4, 5)  # [R, J, n, q, h, K]
    shape = query.shape
    found = scores(query.flatten(2, 4), means).unflatten(2, shape[2:5]) * cfg.scale
    seen = (groups.number[:, None, None] < groups.made[..., None]) & there[:, :, None]  # [R or 1, n, q, N]
    hidden = ~seen.repeat_interleave(parts, -1)[:, None, :, :, None]
    share = found.masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num()
    return (share.unflatten(-1, (-1, parts)).sum((3, 4, 6)) * STEPS).round().to(torch.int64)


def _best(law: Law, mass: Tensor, there: Tensor) -> Tensor:
    """The places of the blocks with the most mass: mass [R, J, n, N], there [R or 1, n, N] -> [R, n, J, most]."""
    count = mass.shape[-1]
    rank = mass * count + torch.arange(count, device=mass.device)
    rank = rank.masked_fill(~there[:, None], -1)
    worth, index = rank.topk(min(law.most, count), -1)
    index = torch.where(worth >= 0, index, count).sort(-1).values
    index = torch.where(index < count, index, 0).transpose(1, 2)
    return torch.nn.functional.pad(index, (0, law.most - index.shape[-1]))
