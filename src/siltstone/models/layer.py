"""`MemoryCaching`: a single memory-caching layer, for use in your own model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import idle_keys
from ..config.layer import LayerConfig
from ..errors import InputError
from ..layers.block import memory_layer
from ..ops.eager import eagerly
from ..ops.taking_part import taking_part
from ..schedule.context import Context
from . import entry
from .entry import Before, Opt
from .step import Prepared, prepare
from .stream_state import LMState


class MemoryCaching(nn.Module):
    """Sequence mixing with a window, a memory and a bank of checkpoints; no norm before it and no residual around it.

    `MemoryCaching(d_model=256, heads=4, memory="gated", cache="sparse", segment=256, window=128)`: the keys of
    `LayerConfig`. `y, state = layer(x, state)`; any split of a stream into calls gives the same outputs.
    """

    def __init__(self, d_model: int, **keys: Any):
        super().__init__()
        self.cfg = LayerConfig.from_keys({"d_model": d_model, **keys})
        idle_keys.check_layer(self.cfg)
        self.mix: Any = memory_layer(self.cfg)

    def init_state(self, batch: int, phase: Any = None) -> LMState:
        """The state before the first token. phase [batch]: writes by which a row's first segment is shorter than `segment`."""
        return entry.init_state(self.cfg, [self.mix], batch, phase)

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> LMState:
        """A state from `state.tensors()` and `state.meta()`; InputError if they do not fit."""
        return entry.load_state(self.cfg, [self.mix], tensors, meta)

    def step(
        self, x: Tensor, state: Before = None, active: Opt = None, cut: Opt = None, reset: Opt = None, inplace: bool = False
    ) -> tuple[Tensor, LMState]:
        """One token of each row, x [B, D] -> y [B, D] and the state after; see `LM.step`."""
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[-1] != self.cfg.d_model or not torch.is_floating_point(x):
            given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"x must be a float tensor [batch, {self.cfg.d_model}], one token per row, and {given} was given")
        state, given = entry.enter_step(self, self.mix.like, x, state, active, cut, reset)
        y, state = self._step(x.unsqueeze(1), prepare([self.mix], state, given, self.mix.like.device, inplace))
        return y[:, 0], state

    def _step(self, x: Tensor, ready: Prepared) -> tuple[Tensor, LMState]:
        """x [B, 1, D] -> y [B, 1, D] and the state after."""
        y, after = self.mix(x, ready.layers[0], ready.context(self.mix.like.dtype), ready.empty[0])
        return y, LMState(ready.after, (after,), self.cfg)

    @eagerly
    def forward(
        self, x: Tensor, state: Before = None, mask: Opt = None, reset: Opt = None, inplace: bool = False, cut: Opt = None
    ) -> tuple[Tensor, LMState]:
        """x [B, T, D] -> y [B, T, D] and the state after.

        mask bool [B, T], False = padding (y is 0 there); reset bool [B, T], True = a new document begins.
        inplace: `state` may be updated in place; the caller must not use it again. cut bool [B, T], True = the write that this
        token is part of ends its segment (segments="content" only).
        """
        if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[-1] != self.cfg.d_model or not torch.is_floating_point(x):
            given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"x must be a float tensor [batch, tokens, {self.cfg.d_model}], and {given} was given")
        entry.check(self.cfg, state, self.mix.like, x)
        state = self.init_state(len(x)) if state is None else state.normal()
        if entry.single(x, mask, reset):
            given = entry.enter_single(self.cfg, (len(x), 1), state, cut)
            return self._step(x, prepare([self.mix], state, given, x.device, inplace))
        packed = entry.enter(self.cfg, (x.shape[0], x.shape[1]), state, mask, reset, cut)
        if not packed.width:
            return taking_part(x.masked_fill(torch.ones_like(x, dtype=torch.bool), 0.0), self.parameters()), state
        before, context = state.layers[0], Context(packed, x.device)
        y, after = self.mix(packed.gather(x), packed.enter(before, self.mix.init), context)
        return packed.scatter(y), LMState(packed.positions_after(state.positions), (packed.leave(before, after),), self.cfg)
