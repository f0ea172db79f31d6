"""What the layers of one call share: the runs, and one plan for each geometry."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch

from .plan import CallSchedule, Geometry
from .runs import PackedBatch
from .segments import Segments
from .window import WindowPlan


class Token(NamedTuple):
    """One token for rows that all stand at the same place, at which no segment is sealed.

    position   of the token                      segment   number of the online one
    before     writes that were made before it   since     writes of the online segment, this token's included
    writes     with it                           place     of the last one in its segment, counted from where a whole one begins
    """

    position: int
    before: int
    writes: int
    segment: int
    since: int
    place: int


class Context:
    """Plans, made on first use. donate: rings may be updated in place."""

    def __init__(self, runs: PackedBatch, device: torch.device, donate: bool = False):
        self.runs, self.device, self.donate = runs, device, donate
        self.lead: Any = None  # the routing (a `Lead`) that layers with routing="shared" follow
        self._plans: dict[Geometry, CallSchedule] = {}
        self._segments: dict[Geometry, Segments] = {}
        self._tokens: dict[Geometry, Token | None] = {}
        self._windows: dict[tuple[Geometry, torch.dtype], WindowPlan] = {}

    @cached_property
    def tick(self) -> int | None:
        """The position where the call is one token for rows that all stand at the same place and phase, else None."""
        runs, clock = self.runs, self.runs.clock
        if runs.width != 1 or runs.take is not None or not len(runs.length):
            return None
        position, phase = int(clock.position[0]), int(clock.phase[0])
        return position if (clock.position == position).all() and (clock.phase == phase).all() else None

    def segments(self, geo: Geometry) -> Segments:
        """Which writes of the runs belong together."""
        if geo not in self._segments:
            self._segments[geo] = geo.segments(self.runs.clock)
        return self._segments[geo]

    def token(self, geo: Geometry) -> Token | None:
        """The call, if it is such a token."""
        if geo not in self._tokens:
            self._tokens[geo] = self._token(geo)
        return self._tokens[geo]

    def _token(self, geo: Geometry) -> Token | None:
        if self.tick is None:
            return None
        segments, before, writes = self.segments(geo), int(geo.written(self.tick)), int(geo.written(self.tick + 1))
        online = segments.online(writes)
        if online is None or online != segments.online(before):
            return None
        number, since = online[0], writes - online[1]
        place = int(segments.phase[0]) * (number == 0) + since - 1
        return Token(self.tick, before, writes, number, since, place)

    def plan(self, geo: Geometry) -> CallSchedule:
        """Which token is written when, and read by whom."""
        if geo not in self._plans:
            self._plans[geo] = CallSchedule(self.runs, geo, self.device)
        return self._plans[geo]

    def window(self, geo: Geometry, dtype: torch.dtype) -> WindowPlan:
        """Angles and masks of the exact attention."""
        if (geo, dtype) not in self._windows:
            self._windows[geo, dtype] = WindowPlan(self.runs, geo, self.device, dtype)
        return self._windows[geo, dtype]
