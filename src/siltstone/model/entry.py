"""What a model and a single layer do alike at the entry of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputError
from .runs import Clock, Runs, plan_runs
from .stream_state import LMState, restore


def start_clock(batch: int, phase: Any, limit: int) -> Clock:
    """A clock at position 0, its phases checked: 0 <= phase < limit."""
    if not isinstance(batch, int) or batch < 0:
        raise InputError(f"batch={batch!r} must be a whole number of rows")
    if phase is not None:
        given = np.asarray(phase)
        if given.shape != (batch,) or not np.issubdtype(given.dtype, np.integer) or (given < 0).any() or (given >= limit).any():
            raise InputError(
                f"phase must be {batch} whole numbers from 0 to {limit - 1} (writes a segment, less one), and {phase!r} was given"
            )
    return Clock.start(batch, phase)


def init_state(phases: int, mixers: Sequence[Any], batch: int, phase: Any) -> LMState:
    """Rows that have seen nothing. phases: how many there are, the writes of the shortest segment."""
    return LMState(start_clock(batch, phase, phases), tuple(m.init(batch) for m in mixers))


def load_state(phases: int, mixers: Sequence[Any], tensors: dict[str, Tensor], meta: dict[str, Any]) -> LMState:
    """A saved state; ValueError where it does not fit these mixers."""
    rows = meta.get("position")
    if not isinstance(rows, list):
        raise ValueError("the state's description lacks 'position'")
    return restore(init_state(phases, mixers, len(rows), None), tensors, meta, phases, mixers)


def enter(shape: tuple[int, int], state: LMState, mask: Tensor | None, reset: Tensor | None) -> Runs:
    """The call's runs; InputError where the state has another number of rows."""
    if len(state) != shape[0]:
        raise InputError(f"the state has {len(state)} rows and the input {shape[0]}; use state.select(rows), or a fresh state")
    return plan_runs(shape, state.clock, mask, reset)
