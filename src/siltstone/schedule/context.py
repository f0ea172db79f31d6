"""Data shared by the layers of one call: the packed batch, and one schedule per geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .call import CallSchedule, Geometry
from .packed import PackedBatch
from .window import WindowSchedule


class Context:
    """Schedules, computed on first use."""

    def __init__(self, packed: PackedBatch, device: torch.device):
        self.packed, self.device = packed, device
        self.lead: Any = None  # the routing (a `Lead`) that layers with routing="shared" use
        self._schedules: dict[Geometry, CallSchedule] = {}
        self._windows: dict[tuple[Geometry, torch.dtype], WindowSchedule] = {}
        self._made: dict[Any, Any] = {}

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
