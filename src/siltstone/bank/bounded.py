"""The bank with a budget: at most X checkpoints, in order of time; when there is one too many, something goes.

evict = "age": the oldest. "use": the one that was read least, by the mean of its gates over heads and over the tokens read
since it was sealed (never the newest). "merge": none; the two neighbours that hold the fewest segments together, of equals the
oldest, become one: their writes add up to W_0 + (W - W_0) + (W' - W_0) (W_0: the rule's first state), or with carried segments
the newer one stands for both; their routing keys are averaged over all their writes. Spans become about equally long, near
ones too. How many checkpoints a row holds follows from its position; which ones, with "use", from the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..cache.base import Mix, Router
from ..memory.base import Memory
from ..schedule.segments import Segments
from ..state.tree import State, padded
from .codec import pack, rounded, unpack
from .constant import Sealing, View

Ask = Callable[[int, View], Mix | None]


@dataclass
class Bounded(State):
    """stages: packed matrices [B, H, X, in, out]; last, span int64 [B, X]: the last segment of each, and how many it holds.

    sums [B, X, J, U] of routing keys, writes int64 [B, X, J] under them, or None; mass, reads float64 [B, X]: its gates summed,
    and the tokens that saw it, or None.
    """

    fixed: ClassVar[tuple[str, ...]] = ("mass", "reads")

    stages: tuple[Tensor, ...]
    last: Tensor
    span: Tensor
    sums: Tensor | None
    writes: Tensor | None
    mass: Tensor | None
    reads: Tensor | None

    @classmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Bounded:
        """No places yet. routing: (J, U)."""
        cfg, like = memory.cfg, memory.stages(memory.init(batch))
        stages = pack(cfg.checkpoint_dtype, tuple(s.unsqueeze(2)[:, :, :0] for s in like), memory.divisors)

        def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(batch, 0, *shape, dtype=dtype, device=like[0].device)

        sums = None if routing is None else like[0].new_zeros(batch, 0, *routing)
        writes = None if routing is None else numbers(routing[0])
        used = [numbers(dtype=torch.float64) if cfg.evict == "use" else None for _ in range(2)]
        return cls(stages, numbers(), numbers(), sums, writes, *used)

    @property
    def width(self) -> int:
        """X, the places there are."""
        return self.last.shape[1]

    def _each(self, f: Callable[[Tensor, int], Tensor]) -> Bounded:
        """f(leaf, its axis of places) of every leaf."""

        def one(x: Tensor | None) -> Any:
            return None if x is None else f(x, 1)

        named = {n.name: getattr(self, n.name) for n in dataclasses.fields(self)}
        stages = tuple(f(x, 2) for x in named.pop("stages"))
        return Bounded(stages, **{name: one(x) for name, x in named.items()})

    def grown(self, width: int) -> Bounded:
        """With at least `width` places."""
        return self._each(lambda x, axis: padded(x, axis, width)) if width > self.width else self

    @classmethod
    def cat(cls, states: Sequence[Self]) -> Self:
        """Rows of several banks, with as many places as the largest."""
        width = max(s.width for s in states)
        return super().cat([s.grown(width) for s in states])  # type: ignore[misc]

    def advance(self, call: Sealing, ask: Ask) -> tuple[list[View], list[Mix | None], Bounded]:
        """Seal what the call seals; the views of its pieces, the gates over them, and the bank after it."""
        plan, number, kind = call.plan, call.plan.sealed0.copy(), call.memory.cfg.checkpoint_dtype
        bank = dataclasses.replace(self, stages=unpack(self.stages, call.dtype))
        views: list[View] = []
        mixes: list[Mix | None] = []
        if plan.dropped:
            bank, number = bank._seal(call, number, np.ones_like(number, bool), call.before, call.sum_before)
        for j in range(plan.shape[1]):
            views.append(bank._view(number, call.router, call.budget))
            mixes.append(ask(j, views[-1]))
            asked = None if plan.asked is None else plan.asked[:, j]
            bank = bank.used(mixes[-1], asked, plan.slots * plan.geo.rate)
            now = plan.dropped + j < plan.pieces - 1
            if now.any():
                sums = None if call.sums is None else call.sums[:, j]
                bank, number = bank._seal(call, number, now, call.ends.map(lambda x, j=j: x[:, j]), sums)
        return views, mixes, dataclasses.replace(bank, stages=pack(kind, bank.stages, call.memory.divisors))

    def now(self, router: Router | None, number: int, segments: Segments) -> View:
        """What rows that all hold as many checkpoints see after `number` segments."""
        return self._view(np.array([number]), router, self.width)

    def used(self, mix: Mix | None, asked: Tensor | None, queries: int) -> Bounded:
        """After queries were answered under `mix`; asked bool [R, Q], which of them count (None: all of `queries`)."""
        if self.mass is None or self.reads is None or mix is None or mix.gates is None:
            return self
        gates = mix.gates.detach().mean(2)
        if asked is not None:
            gates = gates.masked_fill(~asked.unsqueeze(-1), 0.0)
        gates = gates.double()
        if mix.index is None:
            mass = gates.sum(1)
        else:
            mass = torch.zeros_like(self.mass).scatter_add(1, mix.index.flatten(1), gates.flatten(1))
        more = torch.full((len(gates), 1), queries, device=gates.device) if asked is None else asked.sum(1, keepdim=True)
        mass = torch.nn.functional.pad(mass, (0, self.width - mass.shape[1]))
        return dataclasses.replace(self, mass=self.mass + mass, reads=self.reads + more)

    def _view(self, number: np.ndarray, router: Router | None, budget: int) -> View:
        width = min(int(number.max(initial=0)), self.width)
        summary = empty = None
        if self.sums is not None and self.writes is not None:
            writes = self.writes[:, :width]
            summary = self.sums[:, :width] / writes.clamp(min=1).unsqueeze(-1)
            empty = writes == 0 if router is not None and router.blocks > 1 else None
            if empty is not None:  # a place that holds nothing is hidden anyway, and must have a score
                empty = empty & (writes.sum(-1, keepdim=True) > 0)
        count = np.minimum(number, budget)
        hidden = None if (count == width).all() else torch.from_numpy(np.arange(width) >= count[:, None]).to(self.last.device)
        stages = tuple(s[:, :, :width] for s in self.stages)
        return View(stages, summary, empty, hidden, number, self.last[:, :width])

    def _seal(
        self, call: Sealing, number: np.ndarray, now: np.ndarray, state: State, sums: Tensor | None
    ) -> tuple[Bounded, np.ndarray]:
        """Seal the online `state` of the rows where `now`; rows' numbers of sealed segments go up by one there."""
        cfg, device, budget = call.memory.cfg, self.last.device, call.budget
        new = self._new(call, number, state, sums)
        bank = self.grown(min(budget, int(np.where(now, number + 1, 0).max(initial=0))))
        full, width = now & (number >= budget), bank.width
        both = bank._joined(new)
        gone = torch.full((len(number),), width, device=device)  # the place that is given up; `width` is the new one's own
        if full.any():
            if cfg.evict == "merge":
                together = both.span[:, :-1] + both.span[:, 1:]
                gone = together.argmin(1)
                both = both._merged(call, gone, torch.from_numpy(full).to(device))
            elif cfg.evict == "use" and bank.mass is not None and bank.reads is not None:
                gone = (bank.mass / bank.reads.clamp(min=1)).argmin(1)
            else:
                gone = torch.zeros_like(gone)
        slot = torch.arange(width, device=device)[None]
        count, now_, full_ = (torch.from_numpy(x).to(device)[:, None] for x in (number, now, full))
        source = torch.where(full_, slot + (slot >= gone[:, None]), torch.where(now_ & (slot == count), width, slot))

        def pick(x: Tensor, axis: int) -> Tensor:
            index = source.view(len(source), *[width if i == axis else 1 for i in range(1, x.dim())])
            return x.gather(axis, index.expand(*[width if i == axis else n for i, n in enumerate(x.shape)]))

        return both._each(pick), number + now

    def _new(self, call: Sealing, number: np.ndarray, state: State, sums: Tensor | None) -> Bounded:
        """One place with the state that is sealed."""
        stages = rounded(call.memory.cfg.checkpoint_dtype, call.memory.stages(state), call.memory.divisors)
        last = torch.from_numpy(number).to(self.last.device).unsqueeze(1)
        writes = None
        if sums is not None and call.router is not None:
            count = call.plan.segments.writes(number, call.router.block, call.router.blocks)
            writes = call.plan.host(count).unsqueeze(1)
        fresh = None if self.mass is None else torch.zeros(last.shape, dtype=torch.float64, device=last.device)
        routing = None if sums is None else sums.unsqueeze(1)
        return Bounded(tuple(s.unsqueeze(2) for s in stages), last, torch.ones_like(last), routing, writes, fresh, fresh)

    def _joined(self, new: Bounded) -> Bounded:
        """These places, and then the new one's."""
        theirs = iter([*new.stages, *(x for n, x in vars(new).items() if n != "stages" and x is not None)])
        return self._each(lambda x, axis: torch.cat([x, next(theirs).to(x.dtype)], axis))

    def _merged(self, call: Sealing, at: Tensor, rows: Tensor) -> Bounded:
        """With places `at` and `at + 1` [R] merged into the latter, in the given rows."""
        memory, carry = call.memory, call.memory.cfg.start == "carry"

        def pair(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
            index = at.view(-1, *[1] * (x.dim() - 1)).expand(*[1 if i == axis else n for i, n in enumerate(x.shape)])
            return x.gather(axis, index), x.gather(axis, index + 1)

        def put(x: Tensor, value: Tensor, axis: int) -> Tensor:
            place = torch.arange(x.shape[axis], device=x.device)[None] == at[:, None] + 1
            place = (place & rows[:, None]).view(len(x), *[x.shape[axis] if i == axis else 1 for i in range(1, x.dim())])
            return torch.where(place, value, x)

        stages = self.stages
        if not carry:
            first = memory.stages(memory.init(1))
            old_new = [pair(x, 2) for x in stages]
            sums = tuple(a + b - w.unsqueeze(2) for (a, b), w in zip(old_new, first, strict=True))
            sums = rounded(memory.cfg.checkpoint_dtype, memory.settled(sums), memory.divisors)
            stages = tuple(put(x, v, 2) for x, v in zip(stages, sums, strict=True))
        out = dataclasses.replace(self, stages=stages, span=put(self.span, sum(pair(self.span, 1)), 1))  # type: ignore[arg-type]
        if self.sums is not None and self.writes is not None:
            blocks = self.sums.shape[2]

            def halved(x: Tensor) -> Tensor:  # 2 J sub-blocks, neighbours together
                return torch.cat(pair(x, 1), 2).unflatten(2, (blocks, 2)).sum(3)

            out.sums, out.writes = put(self.sums, halved(self.sums), 1), put(self.writes, halved(self.writes), 1)
        return out
