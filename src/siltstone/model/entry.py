"""What a model and a single layer do alike at the entry of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputError
from .runs import Clock, Runs, plan_runs
from .stream_state import LMState, restore


def start_clock(batch: int, phase: Any, limit: int, content: bool) -> Clock:
    """A clock at position 0, its phases checked: 0 <= phase < limit. content: it keeps cuts."""
    if not isinstance(batch, int) or batch < 0:
        raise InputError(f"batch={batch!r} must be a whole number of rows")
    if phase is not None:
        given = np.asarray(phase)
        if given.shape != (batch,) or not np.issubdtype(given.dtype, np.integer) or (given < 0).any() or (given >= limit).any():
            raise InputError(
                f"phase must be {batch} whole numbers from 0 to {limit - 1} (writes a segment, less one), and {phase!r} was given"
            )
    return Clock.start(batch, phase, content)


def init_state(cfg: Any, mixers: Sequence[Any], batch: int, phase: Any) -> LMState:
    """Rows that have seen nothing. cfg: the model's configuration, or the layer's."""
    return LMState(start_clock(batch, phase, cfg.phases, cfg.content), tuple(m.init(batch) for m in mixers))


def load_state(cfg: Any, mixers: Sequence[Any], tensors: dict[str, Tensor], meta: dict[str, Any]) -> LMState:
    """A saved state; ValueError where it does not fit these mixers."""
    rows = meta.get("position")
    if not isinstance(rows, list):
        raise ValueError("the state's description lacks 'position'")
    return restore(init_state(cfg, mixers, len(rows), None), tensors, meta, cfg, mixers)


def _kind(layer: Any) -> tuple[Any, ...]:
    """What a layer's state must be to go into another call: its classes, and the shapes of memory and input."""
    online, unwritten = getattr(layer, "online", None), getattr(layer, "input", None)
    shapes = () if online is None else tuple(x.shape[1:] for _, x in online.leaves())
    return type(layer), type(online), type(getattr(layer, "bank", None)), shapes, getattr(unwritten, "shape", (0,))[1:]


def check_kinds(mixers: Sequence[Any], state: LMState) -> None:
    """InputError where a state is not of these layers."""
    same = len(mixers) == len(state.layers)
    for i, (mixer, layer) in enumerate(zip(mixers, state.layers, strict=False)):
        kind = mixer.__dict__.get("_kind")
        if kind is None:
            kind = mixer.__dict__["_kind"] = _kind(mixer.init(1))
        if _kind(layer) != kind:
            raise InputError(f"the state of layer {i} is another model's (another rule, bank or width); begin with a fresh state")
    if not same:
        raise InputError(f"the state has {len(state.layers)} layers and the model {len(mixers)}; begin with a fresh state")


def enter(
    cfg: Any, shape: tuple[int, int], state: LMState, mask: Tensor | None, reset: Tensor | None, cut: Tensor | None
) -> Runs:
    """The call's runs; InputError where the state has another number of rows, and for cuts that these segments do not take."""
    if cut is not None and not cfg.content:
        raise InputError(
            "cut was given, and no layer has segments='content': segments end after so many tokens; leave it out, or configure "
            "segments='content'"
        )
    if len(state) != shape[0]:
        raise InputError(f"the state has {len(state)} rows and the input {shape[0]}; use state.select(rows), or a fresh state")
    return plan_runs(shape, state.clock, mask, reset, cut)
