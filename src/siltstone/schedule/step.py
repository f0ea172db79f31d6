"""What one token does in every layer of one geometry, for rows that stand at positions of their own.

The host knows positions, phases and cuts (`StepSchedule`, numpy) and decides from them which rows seal a segment and how many
checkpoints there are to see. A `Turn` is the same in tensors: a step reads no number back from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..state.tree import State
from .call import Geometry
from .packed import RowPositions

S = TypeVar("S", bound=State)


class StepSchedule:
    """The host's part, for rows of which the `active` bool [B] get a token.

    before, writes   int64 [B], writes made before this token, and with it (inactive rows: as if they had one)
    number, opened   int64 [B], segments sealed, and the first write of the online segment, once this token is written
    seals            bool [B], rows that seal a segment before they write
    """

    def __init__(self, geo: Geometry, positions: RowPositions, active: np.ndarray):
        self.segments = segments = geo.segments(positions)
        self.phase = segments.phase
        self.before, self.writes = geo.written(positions.position), geo.written(positions.position + 1)
        self.sealed = segments.sealed(self.before)
        self.number = np.where(active, segments.sealed(self.writes), self.sealed)
        self.opened = segments.opens(self.number[:, None])[:, 0]
        self.seals = self.number > self.sealed
        self.active = active

    @property
    def width(self) -> int:
        """The most checkpoints that a row has sealed."""
        return int(self.number.max(initial=0))

    @property
    def even(self) -> bool:
        """Whether all rows have sealed as many."""
        return bool((self.number == self.number[:1]).all())

    @property
    def reads(self) -> bool:
        """Whether a row has written anything."""
        return bool((self.writes > 0).any())

    @property
    def writing(self) -> bool:
        """Whether a row writes."""
        return bool(self._wrote.any())

    @property
    def hints(self) -> Hints:
        """What the host may say."""
        return Hints(self.width, self.even, self.reads, self.writing, bool((self.writes > 0).all()), bool(self._wrote.all()))

    @property
    def _wrote(self) -> np.ndarray:
        return self.active & (self.writes > self.before)

    def tensors(self, device: torch.device) -> Tensor:
        """int64 [3, B]: number, opened, phase."""
        return torch.from_numpy(np.stack([self.number, self.opened, self.phase])).to(device, non_blocking=True)


@dataclass
class Hints:
    """What the host may say beforehand to save work; every value is right if it is left at its default.

    width     checkpoints that are looked at, at least as many as a row has; None: all that there is room for
    even      all rows have the same number of checkpoints
    reads     some row has written something
    writing   some row writes
    read      all rows have written something
    wrote     all rows write
    """

    width: int | None = None
    even: bool = False
    reads: bool = True
    writing: bool = True
    read: bool = False
    wrote: bool = False


class Turn:
    """One token a row in the layers of one geometry; tensors [B].

    wrote     bool, this token completes an update of the memory; None: it does in all rows
    seen      bool, the row has written something
    token     int64, the first token of the update that is written now
    update    int64, its number in the row's life
    since     int64, updates of the online segment, this one included
    place     int64, the place of the last update in its segment
    number    int64, sealed segments
    """

    def __init__(self, geo: Geometry, position: Tensor, active: Tensor | None, counts: Tensor, hints: Hints):
        self.geo, self.position, self.active, self.hints = geo, position, active, hints
        self.number, opened, self.phase = counts.unbind(0)
        away = geo.delay + geo.sinks
        self.update = torch.div((position - away).clamp(min=0), geo.rate, rounding_mode="floor")
        writes = torch.div((position + 1 - away).clamp(min=0), geo.rate, rounding_mode="floor")
        self.wrote: Tensor | None = None
        if not hints.wrote:
            wrote = writes > self.update
            self.wrote = wrote if active is None else wrote & active
        self.writes, self.seen = writes, writes > 0
        self.token = geo.sinks + self.update * geo.rate
        self.since = writes - opened
        self.start = torch.where(self.number == 0, self.phase, 0)
        self.place = self.since - 1 + self.start
        self._made: dict[Hashable, Tensor] = {}

    def once(self, name: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, made once for all layers of this geometry."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def begins(self, align: int, group: int, i: int) -> Tensor | None:
        """bool [B], the i-th write of the update is the first of its inner batch of `align` writes; None: batches are of one."""
        return None if align == 1 else ((self.since - 1) * group + i) % align == 0

    @property
    def low(self) -> Tensor:
        """int64 [B], the first token after the sinks that the window still sees."""
        geo = self.geo
        seen = geo.sinks + geo.rate * self.writes if geo.delay else self.position - geo.window + 1
        return seen.clamp(min=geo.sinks)

    @property
    def held(self) -> Tensor:
        """int64 [B, 1, 1], updates of the online segment, at least 1: what the means of its routing keys are divided by."""
        return self.once("held", lambda: self.since.clamp(min=1).view(-1, 1, 1))

    def hidden(self, places: int) -> Tensor | None:
        """bool [B, places], places whose checkpoint a row does not have; None: all rows have all."""
        if self.hints.even:
            return None
        return self.once(("hidden", places), lambda: torch.arange(places, device=self.number.device) >= self.number[:, None])


def kept(where: Tensor | None, new: S, old: S) -> S:
    """`keep` for states, leaf by leaf."""
    if where is None:
        return new
    before = iter([x for _, x in old.leaves()])
    return new.map(lambda x: keep(where, x, next(before)))


def keep(where: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """The rows of `new` where it says so, and else of `old`; None: everywhere."""
    return new if where is None else torch.where(where.view(-1, *(1,) * (new.dim() - 1)), new, old)
