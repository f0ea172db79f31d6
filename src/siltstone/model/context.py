"""What the layers of one call share: the runs, and one plan for each geometry."""

from __future__ import annotations

from functools import cached_property

import torch

from .plan import Geometry, Plan
from .routing import Lead
from .runs import Runs
from .segments import Segments
from .window import WindowPlan


class Context:
    """Plans, made on first use. donate: rings may be updated in place."""

    def __init__(self, runs: Runs, device: torch.device, donate: bool = False):
        self.runs, self.device, self.donate = runs, device, donate
        self.lead: Lead | None = None  # the routing that layers with routing="shared" follow
        self._plans: dict[Geometry, Plan] = {}
        self._segments: dict[Geometry, Segments] = {}
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

    def plan(self, geo: Geometry) -> Plan:
        """Which token is written when, and read by whom."""
        if geo not in self._plans:
            self._plans[geo] = Plan(self.runs, geo, self.device)
        return self._plans[geo]

    def window(self, geo: Geometry, dtype: torch.dtype) -> WindowPlan:
        """Angles and masks of the exact attention."""
        if (geo, dtype) not in self._windows:
            self._windows[geo, dtype] = WindowPlan(self.runs, geo, self.device, dtype)
        return self._windows[geo, dtype]
