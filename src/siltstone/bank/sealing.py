"""What a call seals, and what a bank may need from the call to keep it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..cache.base import Router
from ..memory.base import Inputs, Memory, ScanOutput
from ..schedule.call import CallSchedule
from ..schedule.segments import Segments
from ..state.tree import State


@dataclass
class Sealed:
    """States sealed at once: the rows `now` bool [R], which had sealed `number` int64 [R] segments before, seal the online memory
    `state` [R, ...].

    sums, writes   the segment's sums of routing keys [R, J, U] and their numbers of writes int64 [R, J]; None: no routing
    host           `number` and `now` as the host knows them; None: it does not, and there is room for every row to seal
    """

    number: Tensor
    now: Tensor
    state: State
    sums: Tensor | None
    writes: Tensor | None
    host: tuple[np.ndarray, np.ndarray] | None

    @classmethod
    def known(cls, by: Sealer, number: np.ndarray, now: np.ndarray, state: State, sums: Tensor | None) -> Sealed:
        """From the numbers of the host."""
        writes = None
        if sums is not None and by.router is not None:
            writes = by.host(by.router.writes(by.segments, number[:, None])[:, 0])
        return cls(by.host(number), by.host(now), state, sums, writes, (number, now))


class Sealer(Protocol):
    """What a bank needs in order to seal."""

    memory: Memory
    router: Router | None
    budget: int

    @property
    def segments(self) -> Segments:
        """Which writes belong together."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What states are computed in."""
        ...

    def host(self, x: np.ndarray) -> Tensor:
        """Numbers of the host on the device."""
        ...


@dataclass
class RowSealer:
    """A `Sealer` between two tokens."""

    memory: Memory
    router: Router | None
    budget: int
    segments: Segments
    dtype: torch.dtype
    device: torch.device

    def host(self, x: np.ndarray) -> Tensor:
        """See Sealer."""
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device)


@dataclass
class Sealing:
    """What a call seals, and its context: states `ends` [R, S, ...] and routing sums [R, S, J, U] after each segment chunk.

    inputs, valid, skip are the call's writes [R, S, ...]; `before` is the online state at the call's start; `written` is the
    scan of the segment chunks, group r * S + s (if segments restart); `budget` is the largest number of checkpoints per row.
    """

    schedule: CallSchedule
    memory: Memory
    router: Router | None
    ends: State
    sums: Tensor | None
    before: State
    sum_before: Tensor | None
    inputs: Inputs
    valid: Tensor | None
    skip: Tensor
    written: ScanOutput
    budget: int

    @property
    def width(self) -> int:
        """The largest number of checkpoints that a run seals in this call."""
        return int(self.schedule.segment_chunks.max(initial=1)) - 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which states are computed."""
        return next(iter(self.before.leaves()))[1].dtype

    @property
    def segments(self) -> Segments:
        """See Sealer."""
        return self.schedule.segments

    def host(self, x: np.ndarray) -> Tensor:
        """See Sealer."""
        return self.schedule.host(x)

    @property
    def dropped(self) -> Sealed | None:
        """What all rows seal before the first segment chunk, or None."""
        schedule = self.schedule
        if not schedule.dropped:
            return None
        return Sealed.known(self, schedule.sealed0, np.ones_like(schedule.sealed0, bool), self.before, self.sum_before)

    def after(self, j: int) -> Sealed | None:
        """What is sealed after segment chunk j, or None."""
        schedule, now = self.schedule, self.schedule.dropped + j < self.schedule.segment_chunks - 1
        if not now.any():
            return None
        number, sums = np.ascontiguousarray(schedule.seen[:, j]), None if self.sums is None else self.sums[:, j]
        return Sealed.known(self, number, now, self.ends.map(lambda x: x[:, j]), sums)

    @cached_property
    def log_decay(self) -> Tensor:
        """[R, S, ...] the log decay of each segment chunk's writes, for rules that merge."""
        each = self.memory.log_decay(self.inputs)
        if self.valid is not None:
            each = each * self.valid.view(*self.valid.shape, *(1,) * (each.dim() - 3))
        return each.sum(2)

    def sealed_ends(self) -> State:
        """[R, width, ...] states in the order in which they are sealed."""
        if not self.schedule.dropped:
            return self.ends.map(lambda x: x[:, : self.width])
        return type(self.ends)(
            **{n: _before(getattr(self.before, n), getattr(self.ends, n), self.width) for n in vars(self.ends)}
        )

    def sealed_sums(self) -> Tensor | None:
        """[R, width, J, U]."""
        if self.sums is None or self.sum_before is None:
            return None
        return _before(self.sum_before, self.sums, self.width) if self.schedule.dropped else self.sums[:, : self.width]


def _before(first: Tensor, rest: Tensor, width: int) -> Tensor:
    return torch.cat([first.unsqueeze(1), rest], 1)[:, :width]
