"""The bank of sealed states with segments of constant length: every checkpoint is kept, appended, shared by forks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..memory.base import Inputs, Memory, Written
from ..model.plan import Plan
from ..state import State, Store


@dataclass
class View:
    """The checkpoints that the queries of one piece see.

    stages   matrices [R, H, N, in, out] of each stage
    summary  [R, N, U] mean routing keys, or None
    hidden   bool [R, N], True where a row sees less than N; None: all see all
    seen     [R, S] how many of them each piece sees, for a view of all pieces at once (`hidden` is None then)
    """

    stages: tuple[Tensor, ...]
    summary: Tensor | None
    hidden: Tensor | None
    newest_last: bool = True
    seen: np.ndarray | None = None

    @property
    def number(self) -> int:
        """N."""
        return self.stages[0].shape[2]


@dataclass
class Sealing:
    """What a call seals: states `ends` [R, S, ...] and routing sums [R, S, U] after each piece, `start` ones before the first.

    inputs, valid, skip are the call's writes [R, S, ...]; `before` is the online state at the call's start; `written` is the
    scan of the pieces, group r * S + s (where segments restart).
    """

    plan: Plan
    memory: Memory
    ends: State
    before: State
    sums: Tensor | None
    sum_before: Tensor | None
    inputs: Inputs
    valid: Tensor | None
    skip: Tensor
    written: Written

    @property
    def width(self) -> int:
        """The most checkpoints that a run seals in this call."""
        return int(self.plan.pieces.max(initial=1)) - 1

    def sealed_ends(self) -> State:
        """[R, width, ...] states in the order they are sealed."""
        if not self.plan.dropped:
            return self.ends.map(lambda x: x[:, : self.width])
        return type(self.ends)(
            **{n: _before(getattr(self.before, n), getattr(self.ends, n), self.width) for n in vars(self.ends)}
        )

    def sealed_sums(self) -> Tensor | None:
        """[R, width, U]."""
        if self.sums is None or self.sum_before is None:
            return None
        return _before(self.sum_before, self.sums, self.width) if self.plan.dropped else self.sums[:, : self.width]


def _before(first: Tensor, rest: Tensor, width: int) -> Tensor:
    return torch.cat([first.unsqueeze(1), rest], 1)[:, :width]


@dataclass
class Bank(State):
    """store: matrices of each stage [B, H, N, in, out] and, where routed, mean routing keys [B, N, U]."""

    store: Store

    @classmethod
    def empty(cls, memory: Memory, batch: int, router_dim: int | None) -> Bank:
        """No checkpoints."""
        stages = tuple(s.unsqueeze(2) for s in memory.stages(memory.init(batch)))
        axes = (2,) * len(stages)
        if router_dim is None:
            return cls(Store.empty(stages, axes))
        return cls(Store.empty((*stages, stages[0].new_zeros(batch, 1, router_dim)), (*axes, 1)))

    def advance(self, call: Sealing, whole: bool) -> tuple[list[View], Bank]:
        """Seal what the call seals; the views of its pieces (one view for all if `whole`), and the bank after it."""
        plan, store = call.plan, self.store
        if call.width:
            new = tuple(s.transpose(1, 2) for s in call.memory.stages(call.sealed_ends()))
            sums = call.sealed_sums()
            if sums is not None:
                counts = plan.segment_writes(call.width)
                new = (*new, sums / plan.host(np.maximum(counts, 1)).unsqueeze(-1))
            store = store.append(new, plan.pieces - 1)
        if whole:
            leaves, stages = store.views(int(plan.seen.max(initial=0))), call.memory.stages_count
            return [View(leaves[:stages], leaves[stages] if len(leaves) > stages else None, None, seen=plan.seen)], Bank(store)
        views = [self._view(store, plan.seen[:, j], call.memory.stages_count, plan) for j in range(plan.shape[1])]
        return views, Bank(store)

    def now(self, memory: Memory, number: int, phase: int, per_segment: int) -> View:
        """What rows that all hold `number` checkpoints see."""
        leaves, stages = self.store.views(number), memory.stages_count
        return View(leaves[:stages], leaves[stages] if len(leaves) > stages else None, None)

    @staticmethod
    def _view(store: Store, seen: np.ndarray, stages: int, plan: Plan) -> View:
        width = int(seen.max(initial=0))
        leaves = store.views(width)
        hidden = None if (seen == width).all() else plan.host(np.arange(width) >= seen[..., None])
        return View(leaves[:stages], leaves[stages] if len(leaves) > stages else None, hidden)
