"""The host's part of a step: one token for each of B rows, at positions of their own.

The host knows where rows stand. It begins rows anew, seals the segments that are full, makes room, and hands the layers tensors;
nothing is read back from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers.context import StepContext
from ..layers.state import MixState
from ..ops.transforms import at_work
from ..schedule.packed import RowPositions
from ..schedule.step import Hints, StepSchedule, Turn
from .stream_state import LMState


@dataclass
class Prepared:
    """What a step's layers take: their states, what they share, and for each bool [B, N, J] or None; then where rows stand."""

    layers: list[MixState]
    context: StepContext
    empty: list[Tensor | None]
    after: RowPositions


def prepare(
    mixers: Sequence[Any],
    state: LMState,
    active: np.ndarray | None,
    cut: np.ndarray | None,
    reset: np.ndarray | None,
    like: Tensor,
    inplace: bool,
) -> Prepared:
    """Everything before the layers. The state's own tensors are left alone unless `inplace`."""
    batch, device = len(state), like.device
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
    schedules: dict[tuple[Any, ...], StepSchedule] = {}
    turns: dict[tuple[Any, ...], Turn] = {}
    empty: list[Tensor | None] = []
    position = torch.from_numpy(positions.position.copy()).to(device)
    mask = None if there.all() else torch.from_numpy(there.copy()).to(device)
    for i, mixer in enumerate(mixers):
        layers[i] = layers[i].reserved(there)
        none = None
        geo = getattr(mixer, "geo", None)
        if geo is not None:
            if geo.timing not in schedules:
                by = schedules[geo.timing] = StepSchedule(geo, positions, there)
                hints = Hints(by.width, by.even, by.reads, by.writing)
                turns[geo.timing] = Turn(geo, position, mask, by.tensors(device), hints)
            by = schedules[geo.timing]
            if hasattr(mixer, "seal"):
                layers[i] = mixer.seal(layers[i], by)
                none = mixer.empty(by)
        empty.append(none if none is None else torch.from_numpy(none).to(device))
    longest = int(positions.position.max(initial=0)) + 1
    context = StepContext(position, mask, turns, like.dtype, plain, longest)
    return Prepared(layers, context, empty, positions.moved(there))
