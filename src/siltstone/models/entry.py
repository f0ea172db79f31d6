"""The beginning of a call, shared by the model and the single layer: checks, new states, saved states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import aliases
from ..config.keys import defaults, flat
from ..config.layer import LayerConfig
from ..core.given import numbers, whole
from ..errors import InputError
from ..ops.chunked import Opt as Opt
from ..ops.transforms import at_work
from ..ops.upcast import autocast_on
from ..schedule.packed import PackedBatch, RowPositions, host_flags, pack_batch
from ..state.tree import State, Store
from .step import Given
from .stream_state import LMState, check_keys, check_same, restore

Before = LMState | None  # the state that an earlier call returned; None: no earlier token


def start_clock(batch: int, phase: Any, limit: int, content: bool) -> RowPositions:
    """Row positions at token 0, with checked phases: 0 <= phase < limit (in writes). content: cuts are recorded."""
    batch, given = whole("batch", batch, "of rows"), None
    if phase is not None:
        given = numbers(phase)
        if given is None or given.dtype == bool or len(given) != batch or (given < 0).any() or (given >= limit).any():
            raise InputError(
                f"phase must be {batch} whole numbers from 0 to {limit - 1} (writes a segment - 1), and {phase!r} was given"
            )
    return RowPositions.start(batch, given, content)


def init_state(cfg: Any, mixers: Sequence[Any], batch: int, phase: Any) -> LMState:
    """The state of `batch` rows before their first token. cfg: the configuration of the model or of the layer."""
    positions = start_clock(batch, phase, cfg.phases, cfg.content)
    return LMState(positions, tuple(m.init(len(positions.position)) for m in mixers), cfg)


def load_state(cfg: Any, mixers: Sequence[Any], tensors: dict[str, Tensor], meta: dict[str, Any]) -> LMState:
    """A saved state; InputError if it does not fit these mixers."""
    if not isinstance(tensors, dict):
        raise InputError(f"tensors must be what state.tensors() returned, and {type(tensors).__name__} was given")
    rows = meta.get("position") if isinstance(meta, dict) else None
    if not isinstance(rows, list):
        raise InputError("the state's description lacks 'position'; give what state.meta() returned")
    if not isinstance(meta.get("counts"), dict):
        raise InputError("the state's description lacks 'counts'; give what state.meta() returned")
    if isinstance(meta.get("keys"), dict):
        keys = defaults(cfg) | meta["keys"]
        check_keys(flat(cfg), aliases.current(keys, warn=False), owner(cfg))
    return restore(init_state(cfg, mixers, len(rows), None), tensors, meta, cfg, mixers)


def check(cfg: Any, state: Any, like: Tensor, x: Tensor | None = None) -> None:
    """InputError if a state, or the input x of a layer, does not fit a model of this configuration and dtype."""
    exact = not autocast_on(like)
    if exact and x is not None and x.dtype != like.dtype:
        raise InputError(f"x is {x.dtype}, and the layer's weights are {like.dtype}; give x.to({like.dtype})")
    if state is None:
        return
    if not isinstance(state, LMState):
        raise InputError(f"state must be what an earlier call returned, or None, and {type(state).__name__} was given")
    check_same(cfg, state, owner(cfg))
    for layer in state.layers if exact else ():
        held = narrow(layer)
        if held is not None and held != like.dtype:
            raise InputError(f"the state is {held}, and the model {like.dtype}; give state.to({like.dtype})")


def owner(cfg: Any) -> str:
    """ "this layer" or "this model", for messages."""
    return "this layer" if isinstance(cfg, LayerConfig) else "this model"


def narrow(layer: State) -> torch.dtype | None:
    """The dtype of the tensors in a layer's state that have the model's dtype; None if it has none."""
    for name in layer.narrow:
        leaf = getattr(layer, name)
        if leaf is not None:
            return leaf.leaves[0].dtype if isinstance(leaf, Store) else leaf.dtype
    window = getattr(layer, "window", None)
    return None if window is None else narrow(window)


def enter_step(
    model: Any, like: Tensor, x: Tensor, state: LMState | None, active: Any, cut: Any, reset: Any
) -> tuple[LMState, Given]:
    """What `step` is given, checked: the state, and active, cut and reset on the host."""
    batch = len(x)
    check(model.cfg, state, like, x if x.is_floating_point() else None)
    now: LMState = model.init_state(batch) if state is None else state.normal()
    _agree(model.cfg, now, batch, cut)
    return now, (host_flags("active", active, (batch,)), host_flags("cut", cut, (batch,)), host_flags("reset", reset, (batch,)))


def single(x: Tensor, mask: Any, reset: Any) -> bool:
    """Whether a call on x [B, T, ...] is a step: one token for each row, without gradients and transforms of torch.func."""
    plain = not torch.is_grad_enabled() and not at_work()
    return x.shape[1] == 1 and len(x) > 0 and mask is None and reset is None and plain


def enter_single(cfg: Any, shape: tuple[int, int], state: LMState, cut: Any) -> Given:
    """What a call that is a step is given, checked."""
    _agree(cfg, state, shape[0], cut)
    flags = host_flags("cut", cut, shape)
    return None, None if flags is None else flags[:, 0], None


def _agree(cfg: Any, state: LMState, rows: int, cut: Any) -> None:
    if cut is not None and not cfg.content:
        raise InputError(
            "cut was given, and no layer has segments='content': segments have a fixed number of tokens; leave it out, or "
            "configure segments='content'"
        )
    if len(state) != rows:
        raise InputError(f"the state has {len(state)} rows and the input {rows}; use state.select(rows), or a fresh state")


def enter(
    cfg: Any, shape: tuple[int, int], state: LMState, mask: Tensor | None, reset: Tensor | None, cut: Tensor | None
) -> PackedBatch:
    """The packed batch of a call. InputError if the state has another number of rows, or if cuts are given without
    segments="content"."""
    _agree(cfg, state, shape[0], cut)
    return pack_batch(shape, state.positions, mask, reset, cut)
