"""What a model and a single layer do alike at the entry of a call."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputError
from .runs import Clock, Runs, plan_runs
from .stream_state import LMState


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


def enter(shape: tuple[int, int], state: LMState, mask: Tensor | None, reset: Tensor | None) -> Runs:
    """The call's runs; InputError where the state has another number of rows."""
    if len(state) != shape[0]:
        raise InputError(f"the state has {len(state)} rows and the input {shape[0]}; use state.select(rows), or a fresh state")
    return plan_runs(shape, state.clock, mask, reset)
