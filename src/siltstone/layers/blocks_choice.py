"""cache="blocks": which blocks the queries before a group choose, and which are dropped over budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..schedule.blocks import Law
from ..state.entries import Entries
from .blocks_kept import Leaves, routing, scores, taken

STEPS = 1 << 12  # masses are compared in steps of 1 / STEPS, so that rounding seldom decides; ties go to the latest block
SCORES = 1 << 24  # scores of sub-blocks that are computed at a time
NOBODY = 1 << 60  # the number of a place without a block


@dataclass(frozen=True)
class Groups:
    """Groups of tokens that choose, in R runs; [R or 1, ...] of the same tensors.

    sealed   int64 [R, n], blocks that have been sealed for the group
    made     int64 [R, n, q], blocks that were sealed when each query was made
    number   int64 [R, N], the block in each place, in ascending order; NOBODY: none
    place    int64 [R, n, q], equal numbers for equal queries; None: no query belongs to two groups
    """

    sealed: Tensor
    made: Tensor
    number: Tensor
    place: np.ndarray | None = None

    def part(self, first: int, end: int) -> Groups:
        """Some of the groups."""
        place = None if self.place is None else self.place[:, first:end]
        return replace(self, sealed=self.sealed[:, first:end], made=self.made[:, first:end], place=place)

    def apart(self) -> tuple[Groups, Tensor, Tensor]:
        """Groups of one query each, no two alike; the query of each among n * q, int64 [R, u], and the u of each query [R, n, q].

        Queries are alike if they have the same place, and the same blocks were sealed for their groups.
        """
        assert self.place is not None
        sealed = self.sealed.cpu().numpy()
        rows, (n, q) = max(len(sealed), len(self.place)), self.place.shape[1:]
        code = np.stack(np.broadcast_arrays(self.place, sealed[..., None]), -1).reshape(-1, n * q, 2)
        found = [np.unique(x, axis=0, return_index=True, return_inverse=True)[1:] for x in code]
        most = max(len(first) for first, _ in found)
        first = torch.from_numpy(np.stack([np.resize(first, most) for first, _ in found])).to(self.sealed.device)
        member = torch.from_numpy(np.stack([inverse.reshape(n, q) for _, inverse in found])).to(self.sealed.device)
        made = self.made.flatten(1).expand(rows, -1).gather(1, first)
        there = self.sealed[..., None].expand(rows, -1, q).flatten(1).gather(1, first)
        return Groups(there, made[..., None], self.number), first, member


@dataclass(frozen=True)
class Held:
    """Places [R, N] with a block that is not dropped; with evict="use" also its mass in steps, and the queries that gave it."""

    alive: Tensor
    used: Tensor | None = None
    asked: Tensor | None = None


class Votes:
    """Sums of the masses that the layers below gave in groups that ask, int64 [R, n, N]; None: there are none yet."""

    below: Tensor | None = None

    def add(self, mass: Tensor) -> None:
        """The layers above have one more below."""
        self.below = mass if self.below is None else self.below + mass


@dataclass(frozen=True)
class Asking:
    """Groups that ask, bool `here` [R or 1, n], the blocks with their keys, and the rows of these (None: all).

    votes   of the layers below that have the same law
    """

    here: np.ndarray
    kept: Entries
    votes: Votes
    rows: Tensor | None = None


@torch.no_grad()
def choose(
    cfg: LayerConfig,
    law: Law,
    query: Tensor,
    means: Leaves,
    groups: Groups,
    stages: np.ndarray | None = None,
    asking: Asking | None = None,
) -> Tensor:
    """The places [R, n, J, most] of the blocks with the most mass, in order; those without a block are 0.

    query [R, n, q, H, K], means as in `blocks_kept`; stages bool [R or 1, n], groups with candidates (None: none has); none of
    them asks. In groups that ask, with `law.exact` that many blocks are compared by their keys, and with `law.votes` masses of
    the layers below count. Over budget the latest blocks are held.
    """
    if asking is None or not (law.exact or law.votes) or not asking.here.any():
        return _staged(cfg, law, query, means, groups, stages)
    found, masses = _pieces(cfg, law, query, means, groups, False, asking)
    asking.votes.add(torch.cat(masses, 1))
    return found if asking.here.all() else _either(asking.here, found, _staged(cfg, law, query, means, groups, stages))


def _staged(cfg: LayerConfig, law: Law, query: Tensor, means: Leaves, groups: Groups, stages: np.ndarray | None) -> Tensor:
    """`choose` with the law of groups that do not ask."""
    one = None if stages is not None and stages.all() else _pieces(cfg, law, query, means, groups, False)[0]
    if one is not None and (stages is None or not stages.any()):
        return one
    two = _pieces(cfg, law, query, means, groups, True)[0]
    return two if one is None else _either(stages, two, one)


def _either(where: Any, this: Tensor, that: Tensor) -> Tensor:
    """Of each group this or that, bool [R or 1, n]."""
    return torch.where(torch.from_numpy(where.copy()).to(this.device)[..., None, None], this, that)


def _pieces(
    cfg: LayerConfig, law: Law, query: Tensor, means: Leaves, groups: Groups, two: bool, asking: Asking | None = None
) -> tuple[Tensor, list[Tensor]]:
    """`choose` with one law for all groups, some scores at a time; of groups that ask also the masses of all blocks,
    summed over heads, in parts of [R, n, N]."""
    parts, places = law.block // law.part, means[0].shape[2]
    exact = 0 if asking is None else law.exact
    size = law.queries * cfg.heads * places * (law.block // law.coarse if two else parts)
    each = law.queries * cfg.heads + cfg.key_heads * cfg.key_dim
    size += (law.candidates * parts * each if two else 0) + exact * law.block * each
    step, found, masses = max(1, SCORES // max(1, query.shape[0] * size)), [], []
    for first in range(0, query.shape[1], step):
        some, asked = groups.part(first, first + step), query[:, first : first + step]
        there = _there(law, some)
        votes = _Worth(law.votes if asking is not None else 0, None if asking is None else asking.votes.below, first, step)
        mass = _summed(cfg, law, asked, routing(means, two), some, there)
        best = _best(law.candidates if two else exact or law.most, votes.of(mass), there)
        if two:
            best = _compared(cfg, law.most, asked, _means_at(routing(means, False), best[0]), some, best, votes)
        if exact:
            assert asking is not None
            keys, _ = taken(asking.kept, best[0], query.dtype, asking.rows)
            best = _compared(cfg, law.most, asked, (keys.transpose(1, 2),), some, best, votes)
        found.append(best[0])
        if asking is not None:
            masses.append(mass.sum(1))
    return torch.cat(found, 1), masses


class _Worth:
    """What blocks are compared by in some groups: their mass, or weight * mass + the votes of the layers below."""

    def __init__(self, weight: int, below: Tensor | None, first: int, step: int):
        self.weight, self.below = weight, None if below is None else below[:, None, first : first + step]  # [R, 1, n, N]

    def of(self, mass: Tensor, places: Tensor | None = None) -> Tensor:
        """mass [R, J, n, N], or of some places [R, J, n, c]."""
        if not self.weight or self.below is None:
            return mass
        votes = self.below if places is None else self.below.expand(-1, places.shape[1], -1, -1).gather(-1, places)
        return self.weight * mass + votes


def _means_at(means: Leaves, places: Tensor) -> Leaves:
    """Routing keys of some places [R, n, J, c] -> leaves [R, J, n, c * parts, ...]."""
    runs, _, heads, _ = places.shape
    row = torch.arange(runs, device=places.device).view(-1, 1, 1, 1) * heads
    index = ((row + torch.arange(heads, device=places.device)[:, None]) * means[0].shape[2] + places).transpose(1, 2)
    return tuple(x.flatten(0, 2)[index].flatten(3, 4) for x in means)


def _compared(
    cfg: LayerConfig, most: int, query: Tensor, keys: Leaves, groups: Groups, candidates: tuple[Tensor, Tensor], votes: _Worth
) -> tuple[Tensor, Tensor]:
    """The best `most` of the candidates (places [R, n, J, c], and how many there are [R, n, J]) in the same form.

    keys: of the candidates, leaves [R, J, n, c * parts, ...]
    """
    places, number = candidates
    there = torch.arange(places.shape[-1], device=places.device) < number[..., None]
    runs, _, heads, count = places.shape
    asked = query.unflatten(3, (cfg.key_heads, -1)).permute(0, 3, 1, 2, 4, 5)
    held = groups.number.expand(runs, -1)[:, None, None].expand(-1, heads, query.shape[1], -1).gather(-1, places.transpose(1, 2))
    seen = (held[..., None, :] < groups.made[:, None, :, :, None]) & there.transpose(1, 2)[..., None, :]  # [R, J, n, q, c]
    product = scores(asked.flatten(3, 4) * cfg.scale, keys).unflatten(3, asked.shape[3:5])
    worth = votes.of(_steps(_shares(product, seen[..., None, :], count)), places.transpose(1, 2))
    best, some = _best(most, worth, there.transpose(1, 2), True)
    return places.gather(-1, best), some


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
        mass = _masses(cfg, query[:, g : g + 1], means, one, alive[:, None])
        found.append(_best(law.most, mass, alive[:, None])[0])
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


def _summed(cfg: LayerConfig, law: Law, query: Tensor, means: Leaves, groups: Groups, there: Tensor) -> Tensor:
    """`_masses`, each query's once if it belongs to several groups."""
    if groups.place is None:
        return _masses(cfg, query, means, groups, there)
    one, first, member = groups.apart()
    row = torch.arange(len(query), device=query.device)[:, None]
    share = _shared(cfg, query.flatten(1, 2)[row, first.expand(len(query), -1)].unsqueeze(2), means, one, _there(law, one))
    member = member.expand(len(query), -1, -1)
    found = share.transpose(1, 2)[row, member.flatten(1)].unflatten(1, member.shape[1:])  # [R, n, q, J, N]
    return _steps(found.sum(2).transpose(1, 2))


def _masses(cfg: LayerConfig, query: Tensor, means: Leaves, groups: Groups, there: Tensor) -> Tensor:
    """The mass of each block in whole steps, int64 [R, J, n, N], over those that are there; query [R, n, q, H, K]."""
    return _steps(_shared(cfg, query, means, groups, there))


def _shared(cfg: LayerConfig, query: Tensor, means: Leaves, groups: Groups, there: Tensor) -> Tensor:
    """`_masses` before they are rounded."""
    query = (query * cfg.scale).unflatten(3, (cfg.key_heads, -1)).permute(0, 3, 1, 2, 4, 5)  # [R, J, n, q, h, K]
    flat = tuple(x.flatten(2, 3) for x in means)
    found = scores(query.flatten(2, 4), flat).unflatten(2, query.shape[2:5])
    seen = (groups.number[:, None, None] < groups.made[..., None]) & there[:, :, None]  # [R or 1, n, q, N]
    return _shares(found, seen[:, None, :, :, None], means[0].shape[2])


def _shares(scores: Tensor, seen: Tensor, count: int) -> Tensor:
    """scores [R, J, n, q, h, count * parts] of sub-blocks, given up; seen bool [..., count] of blocks -> [R, J, n, count]."""
    hidden = ~seen.repeat_interleave(scores.shape[-1] // max(1, count), -1)
    share = scores.masked_fill_(hidden, float("-inf")).softmax(-1).unflatten(-1, (count, -1)).sum((4, 6))
    return share.masked_fill_(~seen[..., 0, :], 0.0).sum(3)  # queries that see no block have shares that are no numbers


def _steps(mass: Tensor) -> Tensor:
    """Masses in whole steps, int64."""
    return (mass * STEPS).round().to(torch.int64)


def _best(most: int, mass: Tensor, there: Tensor, apart: bool = False) -> tuple[Tensor, Tensor]:
    """The places of the blocks with the most mass, and how many there are: mass [R, J, n, N] -> [R, n, J, most], [R, n, J].

    there   bool [R or 1, n, N]; if `apart` [R, J, n, N]
    """
    count = mass.shape[-1]
    rank = mass * count + torch.arange(count, device=mass.device)
    rank = rank.masked_fill(~(there if apart else there[:, None]), -1)
    worth, index = rank.topk(min(most, count), -1)
    index = torch.where(worth >= 0, index, count).sort(-1).values
    index = torch.where(index < count, index, 0).transpose(1, 2)
    return torch.nn.functional.pad(index, (0, most - index.shape[-1])), (worth >= 0).sum(-1).transpose(1, 2)
