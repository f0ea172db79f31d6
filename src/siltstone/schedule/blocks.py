"""Which blocks exist, where the near tokens begin, and when blocks are chosen, for every group of tokens of a call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .packed import PackedBatch, RowPositions


@dataclass(frozen=True)
class Law:
    """window, sinks, and `block` tokens a block; `most` blocks are chosen a head, by the last `queries` queries, once in `every`
    tokens (a group); a routing key covers `part` tokens. At most `budget` blocks are held (None: all). With `coarse` and more
    than `coarse_from` tokens in blocks, coarse routing keys choose `candidates` blocks to choose from, except where a row asks.
    Where it does, the best `exact` blocks are then compared by their keys themselves (0: they are not), and a block's worth is
    `votes` times its mass and the masses of the layers below (0: its mass).

    The functions take the position of a group's first token: numpy or tensors, int64.
    """

    window: int
    sinks: int
    block: int
    most: int
    queries: int
    every: int
    part: int
    budget: int | None = None
    coarse: int = 0
    coarse_from: int = 0
    candidates: int = 0
    exact: int = 0
    votes: int = 0

    def group(self, position: Any) -> Any:
        """The position of the first token of a token's group."""
        return position // self.every * self.every

    def sealed(self, group: Any) -> Any:
        """Blocks of tokens that have all left the window when a group begins."""
        return (group - (self.window - 1 + self.sinks)).clip(min=0) // self.block

    def chooses(self, positions: RowPositions) -> np.ndarray:
        """bool [B]: rows that choose blocks before their next token."""
        position = positions.position
        return ((position % self.every == 0) | positions.from_here()) & (self.ahead(position) > 0)

    def ahead(self, position: Any) -> Any:
        """Blocks that the group of a token at `position` can choose from, those that were dropped included."""
        return self.sealed(self.group(position))

    def offered(self, tokens: Any) -> Any:
        """Blocks that the last group of a row that has read `tokens` tokens can choose from, those that were dropped included."""
        return self.ahead((tokens - 1).clip(min=0))

    def held(self, sealed: Any) -> Any:
        """How many of the sealed blocks are held."""
        return sealed if self.budget is None else sealed.clip(max=self.budget)

    def two_stages(self, sealed: Any) -> Any:
        """Whether candidates are chosen first, with so many blocks sealed."""
        return (self.coarse > 0) & (self.held(sealed) * self.block > self.coarse_from)

    def spans(self, number: np.ndarray) -> np.ndarray:
        """int64 [..., 2], the tokens [first, end) of blocks."""
        return spans(self.sinks, self.block, number)

    @property
    def near(self) -> int:
        """The most tokens between the last sealed block and the end of a group."""
        return self.window + self.block + self.every - 2


def spans(sinks: int, block: int, number: np.ndarray) -> np.ndarray:
    """int64 [..., 2], the tokens [first, end) of the blocks of these numbers."""
    first = sinks + number * block
    return np.stack([first, first + block], -1)


class BlockSchedule:
    """Groups of the runs of one call: arrays [R or 1, n], R only if the runs begin at different positions.

    every    tokens of a group: those of the law, or 1 if a run chooses before every token; then each token of the other runs is a
             group too, and shares its choice with others
    first    position of the first token of each group; runs may begin inside their first group
    begin    position before whose token the group's blocks are chosen: `first`, or an earlier one
    sealed   blocks that have been sealed for each group
    asks     bool, groups that choose before every token
    start    position of the first near token
    chosen   number of blocks that it attends to
    before, after   [R] blocks that were sealed for the group before the call, and for the last of each run
    """

    def __init__(self, packed: PackedBatch, law: Law, device: torch.device):
        self.packed, self.law, self.device = packed, law, device
        position, asking = packed.positions.position, packed.positions.asking
        one = len(position) > 0 and bool((position == position[0]).all())
        if asking is not None and (position + packed.length > asking).any():
            self.every = 1
            one = one and bool((asking == asking[0]).all())
        else:
            self.every, asking = law.every, None
        self.position = position[:1] if one else position
        self.lead = self.position % self.every
        self.groups = int(((self.lead + packed.width - 1) // self.every).max(initial=0)) + 1
        self.first = (self.position - self.lead)[:, None] + np.arange(self.groups) * self.every
        self.begin, self.asks = self.first, np.zeros(self.first.shape, bool)
        if asking is not None:
            self.asks = self.first >= asking[: len(self.position), None]
            self.begin = np.where(self.first < asking[: len(self.position), None], law.group(self.first), self.first)
        self.sealed = law.ahead(self.first)
        self.start = law.sinks + self.sealed * law.block
        self.chosen = np.minimum(law.held(self.sealed), law.most)
        end = np.minimum(self.first + self.every, (self.position + packed.width)[:, None])
        self.near = max(1, int((end - self.start).max(initial=1)))
        self.before = law.offered(position)
        self.after = np.where(packed.length > 0, law.offered(position + packed.length), self.before)

    def host(self, x: np.ndarray) -> Tensor:
        """A tensor of the array on the call's device."""
        return torch.from_numpy(np.array(x)).to(self.device, non_blocking=True)

    @cached_property
    def far(self) -> int:
        """Tokens of the chosen blocks of the group that has the most."""
        return int(self.chosen.max(initial=0)) * self.law.block

    @property
    def chooses(self) -> bool:
        """Whether a group must choose: there are more blocks than it attends to, or than are held."""
        law = self.law
        return bool((self.sealed > (law.most if law.budget is None else min(law.most, law.budget))).any())

    @cached_property
    def last(self) -> np.ndarray:
        """[R] the group of each run's last token."""
        return np.maximum(self.position + self.packed.length - 1 - self.first[:, 0], 0) // self.every

    @cached_property
    def begins(self) -> np.ndarray:
        """bool [R, n], groups whose choice is made before a token of the run."""
        position, end = self.packed.positions.position, self.packed.positions.position + self.packed.length
        return (self.begin == self.first) & (self.first >= position[:, None]) & (self.first < end[:, None])

    @cached_property
    def earlier(self) -> np.ndarray:
        """bool [R or 1, n], groups that keep the choice of the state: it was made before the call."""
        return self.begin < self.position[:, None]

    @cached_property
    def queries(self) -> Tensor:
        """int64 [R or 1, n * every]: the run's token of each slot; slots outside the run hold another token of it."""
        slot = np.arange(self.groups * self.every) - self.lead[:, None]
        return self.host(slot.clip(0, max(self.packed.width - 1, 0)))

    @cached_property
    def slots(self) -> Tensor:
        """int64 [R or 1, T]: the slot of each token."""
        return self.host(np.arange(self.packed.width) + self.lead[:, None])

    @cached_property
    def tokens(self) -> Tensor:
        """int64 [R or 1, n, near]: near tokens, as places in the ring's history and the call; later ones are hidden."""
        token = self.start[..., None] + np.arange(self.near) - self.position[:, None, None] + self.law.near
        return self.host(token.clip(0, self.law.near + self.packed.width - 1))

    @cached_property
    def entering(self) -> Tensor | None:
        """int64 [R, new * block]: the tokens of the blocks that the call seals, as places in the ring's history and the call;
        behind a run's last block, any. None: it seals none."""
        new, law = int((self.after - self.before).max(initial=0)), self.law
        if not new:
            return None
        first = law.sinks + self.before * law.block - self.packed.positions.position + law.near
        return self.host((first[:, None] + np.arange(new * law.block)).clip(0, law.near + self.packed.width - 1))

    @cached_property
    def sinks(self) -> Tensor:
        """int64 [R, sinks]: the sinks after the call, as places in the earlier sinks and the call."""
        position, length = self.packed.positions.position[:, None], self.packed.length[:, None]
        i = np.arange(self.law.sinks)
        return self.host(np.where((i >= position) & (i < position + length), self.law.sinks + i - position, i))

    @cached_property
    def asking(self) -> np.ndarray:
        """int64 [R or 1, n, queries]: the choosing queries of each group, as places in the ring's history and the call; those of
        groups outside the run may be outside both."""
        return self.begin[..., None] - self.position[:, None, None] + np.arange(self.law.queries)

    @cached_property
    def askers(self) -> Tensor:
        """`asking`, with any places instead of those that are outside."""
        return self.host(self.asking.clip(0, self.law.queries + self.packed.width - 1))

    @cached_property
    def mask(self) -> Tensor:
        """bool [R or 1, n, every, sinks + far + near]: what each query slot sees."""
        law = self.law
        at = (self.first[..., None] + np.arange(self.every))[..., None]
        shape = (*at.shape[:3],)
        sinks = np.broadcast_to(np.arange(law.sinks) <= at, (*shape, law.sinks))
        far = np.broadcast_to(np.arange(self.far) < (self.chosen * law.block)[..., None, None], (*shape, self.far))
        near = self.start[..., None, None] + np.arange(self.near) <= at
        return self.host(np.concatenate([sinks, far, near], -1))

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Places in the buffer of query slots int64 [R or 1, n * every] and of near tokens [R or 1, n, near]."""
        law = self.law
        begin = law.sinks + self.chosen * law.block
        query = (begin + self.first - self.start)[..., None] + np.arange(self.every)
        return self.host(query.reshape(len(query), -1)), self.host(begin[..., None] + np.arange(self.near))
