"""What the layers of one call share: the runs, and one plan for each geometry."""

from __future__ import annotations

import torch

from .plan import Geometry, Plan
from .runs import Runs
from .window import WindowPlan


class Context:
    """Plans, made on first use."""

    def __init__(self, runs: Runs, device: torch.device):
        self.runs, self.device = runs, device
        self._plans: dict[Geometry, Plan] = {}
        self._windows: dict[tuple[Geometry, torch.dtype], WindowPlan] = {}

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
