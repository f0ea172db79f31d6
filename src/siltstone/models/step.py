"""The host's part of a step: one token for each of B rows, at positions of their own.

The host knows where rows stand. It begins rows anew, seals the segments that are full, makes room, and hands the layers tensors;
nothing is read back from the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OutOfMemory, PoolFull
from ..layers.context import StepContext
from ..layers.state import MixState
from ..ops.transforms import at_work
from ..schedule.call import Geometry
from ..schedule.packed import RowPositions
from ..schedule.step import Hints, StepSchedule, Turn
from .stream_state import LMState

Given = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]  # active, cut, reset: bool [B]; None: not given
Timing = tuple[Any, ...]  # `Geometry.timing`


@dataclass
class Prepared:
    """What a step's layers take, on the device.

    layers     their states
    position   int64 [B], of the tokens; active bool [B] (None: all rows)
    schedules  by timing: the layers' geometry, counts (`StepSchedule.tensors`), and what the host says beforehand
    empty      for each layer bool [B, N, J], or None: sub-blocks without a write
    after      where rows stand after the token
    inplace    states may be updated in place
    longest    tokens of the longest row, this one included
    at         the position of all rows; None: they stand at several, or some are inactive
    """

    layers: list[MixState]
    position: Tensor
    active: Tensor | None
    after: RowPositions
    inplace: bool
    longest: int
    at: int | None
    schedules: dict[Timing, tuple[Geometry, Tensor, Hints]] = field(default_factory=dict)
    empty: list[Tensor | None] = field(default_factory=list)

    def context(self, dtype: torch.dtype) -> StepContext:
        """What the layers share while they run one after the other."""
        turns = {
            timing: Turn(geo, self.position, self.active, counts, hints)
            for timing, (geo, counts, hints) in self.schedules.items()
        }
        return StepContext(self.position, self.active, turns, dtype, self.inplace, self.longest, self.at)


@contextmanager
def making_room() -> Iterator[None]:
    """What takes memory before a step changes anything: OutOfMemory is raised as PoolFull."""
    try:
        yield
    except OutOfMemory as error:
        raise PoolFull(f"{error}; the state is as it was") from error.__cause__


@making_room()
def prepare(mixers: Sequence[Any], state: LMState, given: Given, device: torch.device, inplace: bool) -> Prepared:
    """Everything before the layers. The state's own tensors are left alone unless `inplace`. Raises PoolFull; then also."""
    (active, cut, reset), batch = given, len(state)
    there = np.ones(batch, bool) if active is None else active
    plain = not torch.is_grad_enabled() and not at_work()
    layers = list(state.layers) if inplace or not plain else [layer.fork() for layer in state.layers]
    positions = state.positions
    if reset is not None and (reset & there).any():
        begins = reset & there
        rows = np.where(begins, batch, np.arange(batch))  # the row behind the others has read nothing
        layers = [type(x).cat([x, mixer.init(1)]).select(rows) for x, mixer in zip(layers, mixers, strict=True)]
        positions = positions.begun(begins)
    if cut is not None and (cut & there).any():
        positions = positions.cut(cut & there)
    position = torch.from_numpy(positions.position.copy()).to(device, non_blocking=True)
    mask = None if there.all() else torch.from_numpy(there.copy()).to(device, non_blocking=True)
    longest = int(positions.position.max(initial=0)) + 1
    at = longest - 1 if mask is None and (positions.position == longest - 1).all() else None
    ready = Prepared(layers, position, mask, positions.moved(there), plain, longest, at)
    schedules: dict[Timing, StepSchedule] = {}
    shared: dict[Any, Any] = {}
    for i, mixer in enumerate(mixers):
        layers[i] = layers[i].reserved(there)
        if hasattr(mixer, "renew"):
            layers[i] = mixer.renew(layers[i], positions, there, shared)
        none, geo = None, getattr(mixer, "geo", None)
        if geo is not None:
            if geo.timing not in schedules:
                by = schedules[geo.timing] = StepSchedule(geo, positions, there)
                ready.schedules[geo.timing] = (geo, by.tensors(device), by.hints)
            by = schedules[geo.timing]
            if hasattr(mixer, "seal"):
                layers[i] = mixer.seal(layers[i], by)
                none = mixer.empty(by)
        ready.empty.append(none if none is None else torch.from_numpy(none).to(device, non_blocking=True))
    return ready
