"""Data shared by the layers of one call: the packed batch, and one schedule per geometry."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch

from .call import CallSchedule, Geometry
from .packed import PackedBatch
from .segments import Segments
from .window import WindowSchedule


class Token(NamedTuple):
    """A decode step: one token for rows that are all at the same position, at which no segment is sealed.

    position   of the token                      segment   number of the online one
    before     writes made before it             since     writes of the online segment, this token's included
    writes     with it                           place     of the last one in its segment, counted from the start of a full one
    """

    position: int
    before: int
    writes: int
    segment: int
    since: int
    place: int


class Context:
    """Schedules, computed on first use. inplace: rings may be updated in place."""

    def __init__(self, packed: PackedBatch, device: torch.device, inplace: bool = False):
        self.packed, self.device, self.inplace = packed, device, inplace
        self.lead: Any = None  # the routing (a `Lead`) that layers with routing="shared" use
        self._schedules: dict[Geometry, CallSchedule] = {}
        self._segments: dict[Geometry, Segments] = {}
        self._tokens: dict[Geometry, Token | None] = {}
        self._windows: dict[tuple[Geometry, torch.dtype], WindowSchedule] = {}
        self._made: dict[Any, Any] = {}

    @cached_property
    def uniform_position(self) -> int | None:
        """The position, if the call is one token for rows that are all at the same position and phase, else None."""
        packed, positions = self.packed, self.packed.positions
        if packed.width != 1 or packed.take is not None or not len(packed.length):
            return None
        position, phase = int(positions.position[0]), int(positions.phase[0])
        return position if (positions.position == position).all() and (positions.phase == phase).all() else None

    def segments(self, geo: Geometry) -> Segments:
        """The assignment of the runs' writes to segments."""
        if geo not in self._segments:
            self._segments[geo] = geo.segments(self.packed.positions)
        return self._segments[geo]

    def token(self, geo: Geometry) -> Token | None:
        """The call as a decode step, or None."""
        if geo not in self._tokens:
            self._tokens[geo] = self._token(geo)
        return self._tokens[geo]

    def _token(self, geo: Geometry) -> Token | None:
        if self.uniform_position is None:
            return None
        segments, before, writes = (
            self.segments(geo),
            int(geo.written(self.uniform_position)),
            int(geo.written(self.uniform_position + 1)),
        )
        online = segments.online(writes)
        if online is None or online != segments.online(before):
            return None
        number, since = online[0], writes - online[1]
        place = int(segments.phase[0]) * (number == 0) + since - 1
        return Token(self.uniform_position, before, writes, number, since, place)

    def schedule(self, geo: Geometry) -> CallSchedule:
        """The call's schedule for this geometry."""
        if geo not in self._schedules:
            self._schedules[geo] = CallSchedule(self.packed, geo, self.device)
        return self._schedules[geo]

    def window(self, geo: Geometry, dtype: torch.dtype) -> WindowSchedule:
        """Angles and masks of the exact attention."""
        if (geo, dtype) not in self._windows:
            self._windows[geo, dtype] = WindowSchedule(self.packed, geo, self.device, dtype)
        return self._windows[geo, dtype]

    def made(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returned for an equal key: other schedules, for layers of one kind."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
