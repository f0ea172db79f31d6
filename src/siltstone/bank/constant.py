"""The bank of sealed states: every checkpoint is kept, appended, shared by forks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache.base import Router
from ..memory.base import Inputs, Memory, Written
from ..schedule.plan import Plan
from ..schedule.segments import Segments
from ..state.tree import State, Store
from .codec import pack, rounded, unpack


@dataclass
class View:
    """The checkpoints that the queries of one piece see.

    leaves       packed matrices [R, H, N, in, out] of each stage; `stages` are the matrices
    summary      [R, N, J, U] mean routing keys of sub-blocks, or None
    empty        bool [R, N, J] sub-blocks that no write fell into, or None: every one has some
    hidden       bool [R, N], True where a row sees less than N; None: all see all
    sealed       [R] segments sealed so far (of all pieces: [R, S])
    last         [R, N] the last segment that each checkpoint holds; None: checkpoint n is segment n
    newest_last  checkpoints stand in order of time
    seen         [R, S] how many checkpoints each piece sees, for a view of all pieces at once (`hidden` is None then)
    """

    leaves: tuple[Tensor, ...]
    summary: Tensor | None
    empty: Tensor | None
    hidden: Tensor | None
    sealed: np.ndarray
    last: np.ndarray | Tensor | None = None
    newest_last: bool = True
    seen: np.ndarray | None = None

    @property
    def number(self) -> int:
        """N."""
        return self.leaves[0].shape[2]

    @cached_property
    def stages(self) -> tuple[Tensor, ...]:
        """Matrices [R, H, N, in, out] of each stage."""
        return unpack(self.leaves)

    def age(self) -> Tensor:
        """[R, 1, N] segments from each checkpoint's last to the online one: 1 for the newest."""
        device, last = self.leaves[0].device, np.arange(self.number)[None] if self.last is None else self.last
        sealed = torch.from_numpy(np.ascontiguousarray(self.sealed)).to(device).unsqueeze(-1)
        return (sealed - (torch.from_numpy(last).to(device) if isinstance(last, np.ndarray) else last)).unsqueeze(1)


@dataclass
class Sealing:
    """What a call seals, and into what: states `ends` [R, S, ...] and routing sums [R, S, J, U] after each piece.

    inputs, valid, skip are the call's writes [R, S, ...]; `before` is the online state at the call's start; `written` is the
    scan of the pieces, group r * S + s (where segments restart); `budget` is the most checkpoints a row may keep.
    """

    plan: Plan
    memory: Memory
    router: Router | None
    ends: State
    sums: Tensor | None
    before: State
    sum_before: Tensor | None
    inputs: Inputs
    valid: Tensor | None
    skip: Tensor
    written: Written
    budget: int

    @property
    def width(self) -> int:
        """The most checkpoints that a run seals in this call."""
        return int(self.plan.pieces.max(initial=1)) - 1

    @property
    def dtype(self) -> torch.dtype:
        """What states are computed in."""
        return next(iter(self.before.leaves()))[1].dtype

    def sealed_ends(self) -> State:
        """[R, width, ...] states in the order they are sealed."""
        if not self.plan.dropped:
            return self.ends.map(lambda x: x[:, : self.width])
        return type(self.ends)(
            **{n: _before(getattr(self.before, n), getattr(self.ends, n), self.width) for n in vars(self.ends)}
        )

    def sealed_sums(self) -> Tensor | None:
        """[R, width, J, U]."""
        if self.sums is None or self.sum_before is None:
            return None
        return _before(self.sum_before, self.sums, self.width) if self.plan.dropped else self.sums[:, : self.width]


def _before(first: Tensor, rest: Tensor, width: int) -> Tensor:
    return torch.cat([first.unsqueeze(1), rest], 1)[:, :width]


@dataclass
class Bank(State):
    """store: packed matrices of each stage [B, H, N, in, out] and, where routed, mean routing keys [B, N, J, U]."""

    store: Store

    def __post_init__(self) -> None:
        self._found: dict[int, Tensor | None] = {}  # what `_empty` says of so many checkpoints, once for all tokens until a seal

    @classmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Bank:
        """No checkpoints. routing: (J, U)."""
        first = tuple(s.unsqueeze(2) for s in memory.stages(memory.init(batch)))
        stages = pack(memory.cfg.checkpoint_dtype, first, memory.divisors)
        axes = (2,) * len(stages)
        if routing is None:
            return cls(Store.empty(stages, axes))
        like = memory.stages(memory.init(1))[0]
        return cls(Store.empty((*stages, like.new_zeros(batch, 1, *routing)), (*axes, 1)))

    def advance(self, call: Sealing, whole: bool) -> tuple[list[View], Bank]:
        """Seal what the call seals; the views of its pieces (one view for all if `whole`), and the bank after it.

        Packed checkpoints pass gradients on inside the call that seals them, and none to later calls.
        """
        plan, store, kind = call.plan, self.store, call.memory.cfg.checkpoint_dtype
        shown = store
        if call.width:
            new = tuple(s.transpose(1, 2) for s in call.memory.stages(call.sealed_ends()))
            sums, means = call.sealed_sums(), ()
            if sums is not None and call.router is not None:
                sealed = plan.sealed0[:, None] + np.arange(call.width)
                counts = plan.segments.writes(sealed, call.router.block, call.router.blocks)
                means = (sums / plan.host(np.maximum(counts, 1)).unsqueeze(-1),)
            store = shown = store.append((*pack(kind, new, call.memory.divisors), *means), plan.pieces - 1)
            if kind != "float32" and torch.is_grad_enabled():
                kept = len(self.store.axes) - (call.router is not None and call.router.leads)
                wide = unpack(self.store.leaves[:kept], call.dtype) + self.store.leaves[kept:]
                shown = Store(wide, self.store.axes[: len(new)] + self.store.axes[kept:], self.store.count)
                shown = shown.append((*rounded(kind, new, call.memory.divisors), *means), plan.pieces - 1)
        empty = self._empty(plan.segments, int(plan.seen.max(initial=0)), call.router)
        if whole:
            return [self._view(shown, plan.seen, call.router, empty)], Bank(store)
        return [self._view(shown, seen, call.router, empty) for seen in plan.seen.T], Bank(store)

    def now(self, router: Router | None, number: int, segments: Segments) -> View:
        """What rows that all hold `number` checkpoints see."""
        if number not in self._found:
            self._found[number] = self._empty(segments, number, router)
        return self._view(self.store, np.array([number]), router, self._found[number])

    def used(self, mix: Any, asked: Tensor | None, queries: int) -> Bank:
        """Every checkpoint stays, however it is read."""
        return self

    def _empty(self, segments: Segments, number: int, router: Router | None) -> Tensor | None:
        """bool [R, number, J], sub-blocks that no write fell into; None: there are none, or another layer routes."""
        found = segments.empty(number, router.block, router.blocks) if router is not None and router.leads else None
        with torch.inference_mode(False):  # it outlives the call
            return None if found is None else torch.from_numpy(found).to(self.store.leaves[0].device)

    @staticmethod
    def _view(store: Store, seen: np.ndarray, router: Router | None, empty: Tensor | None) -> View:
        """seen [R], or [R, S] for all pieces at once; empty [R, at least as many, J]."""
        width = int(seen.max(initial=0))
        leaves, summary, hidden = store.views(width), None, None
        device = leaves[0].device
        if router is not None and router.leads:
            *leaves, summary = leaves
            empty = None if empty is None else empty[:, :width]
        if seen.ndim == 1 and not (seen == width).all():
            hidden = torch.from_numpy(np.arange(width) >= seen[:, None]).to(device)
        return View(tuple(leaves), summary, empty, hidden, seen, seen=seen if seen.ndim == 2 else None)
