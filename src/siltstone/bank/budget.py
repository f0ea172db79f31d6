"""The bank with a budget: at most X checkpoints, in order of time; one more than X evicts or merges.

evict = "age": evict the oldest. "use": evict the one with the smallest mean gate over heads and over the tokens read since it was
sealed (never the newest). "merge": evict none, but merge the two neighbours that cover the fewest segments together (ties: the
oldest pair): their writes add up to W_0 + (W - W_0) + (W' - W_0) (W_0: the rule's initial state); with start="carry" the newer
state covers both. Their routing keys are averaged over all their writes. Spans become about equally long, recent ones too. How
many checkpoints a row holds follows from its position; which ones, with "use", depends on the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..cache.base import ReadWeights, Router
from ..errors import ConfigError
from ..memory.base import Memory
from ..schedule.step import Turn
from .base import Spans
from .codec import pack, rounded, unpack
from .places import PlacesBank
from .sealing import Sealed, Sealer, Sealing
from .view import View

FARTHEST = 1 << 60  # writes: sums of them fit 64 bits


@dataclass
class BudgetBank(PlacesBank):
    """factors: packed matrices [B, H, X, in, out]; last, span int64 [B, X]: each one's last segment and its number of segments.

    sums [B, X, J, U] of routing keys and their numbers of writes, int64 [B, X, J], or None; mass, reads float64 [B, X]: the sum
    of its gates and the number of tokens that saw it, or None.
    """

    fixed: ClassVar[tuple[str, ...]] = ("mass", "reads")
    grows: ClassVar[bool] = False
    growth: ClassVar[str] = "O(1): a budget of checkpoints"
    tells: ClassVar[tuple[str, ...]] = ("last", "span")

    factors: tuple[Tensor, ...]
    last: Tensor
    span: Tensor
    sums: Tensor | None
    writes: Tensor | None
    mass: Tensor | None
    reads: Tensor | None

    @classmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Self:
        """See Bank."""
        cfg, like = memory.cfg, memory.read_factors(memory.init(batch))
        factors = pack(cfg.checkpoint_dtype, tuple(s.unsqueeze(2)[:, :, :0] for s in like), memory.normalizer)

        def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(batch, 0, *shape, dtype=dtype, device=like[0].device)

        sums = None if routing is None else like[0].new_zeros(batch, 0, *routing)
        writes = None if routing is None else numbers(routing[0])
        used = [numbers(dtype=torch.float64) if cfg.evict == "use" else None for _ in range(2)]
        return cls(factors, numbers(), numbers(), sums, writes, *used)

    def sized(self, sealed: np.ndarray, budget: int) -> Self:
        """See Bank."""
        bank = self.grown(min(budget, int(sealed.max(initial=0))))
        first = np.maximum(sealed - bank.width, 0)[:, None] + np.arange(bank.width)
        return dataclasses.replace(bank, last=torch.from_numpy(first).to(bank.last), span=torch.ones_like(bank.span))

    def begin(self, call: Sealing) -> Self:
        """See Bank."""
        bank = dataclasses.replace(self, factors=unpack(self.factors, call.dtype))
        return bank if call.dropped is None else bank._seal(call, call.dropped)

    def view(self, call: Sealing, j: int) -> View:
        """See Bank."""
        return self._view(np.ascontiguousarray(call.schedule.seen[:, j]), call.router, call.budget)

    def append(self, call: Sealing, j: int, mix: ReadWeights | None) -> Self:
        """See Bank."""
        schedule, sealed, bank = call.schedule, call.after(j), self
        if bank.mass is not None:
            bank = bank.used(mix, None if schedule.asked is None else schedule.asked[:, j], schedule.slots * schedule.geo.rate)
        return bank if sealed is None else bank._seal(call, sealed)

    def end(self, call: Sealing) -> Self:
        """See Bank."""
        return dataclasses.replace(self, factors=pack(call.memory.cfg.checkpoint_dtype, self.factors, call.memory.normalizer))

    def used(self, mix: ReadWeights | None, asked: Tensor | None, queries: int) -> Self:
        """See Bank."""
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

    def rows_view(self, router: Router | None, turn: Turn, empty: Tensor | None) -> View:
        """See Bank."""
        summary = empty = None
        if self.sums is not None and self.writes is not None:
            summary = self.sums / self.writes.clamp(min=1).unsqueeze(-1)
            if router is not None and router.blocks > 1:
                empty = (self.writes == 0) & (self.writes.sum(-1, keepdim=True) > 0)
        hidden = None
        if not turn.hints.even:
            hidden = torch.arange(self.width, device=self.last.device) >= turn.number.clamp(max=self.width)[:, None]
        return View(self.factors, summary, empty, hidden, turn.number, self.last)

    def seal(self, by: Sealer, sealed: Sealed) -> Self:
        """See Bank."""
        memory, bank = by.memory, dataclasses.replace(self, factors=unpack(self.factors, by.dtype))._seal(by, sealed)
        return dataclasses.replace(bank, factors=pack(memory.cfg.checkpoint_dtype, bank.factors, memory.normalizer))

    def fits(self, sealed: np.ndarray, budget: int) -> bool:
        """See Bank: the right number of checkpoints, each of sealed segments, in order of time, without overlap."""
        count = np.minimum(sealed, budget)
        if not self.even(budget) or count.max(initial=0) > self.width:
            return False
        filled = np.arange(self.width) < count[:, None]
        last, span = (np.where(filled, x.cpu().numpy(), y) for x, y in ((self.last, 0), (self.span, 1)))
        fine = (last >= 0) & (last < np.maximum(sealed, 1)[:, None]) & (span >= 1) & (span <= last + 1)
        apart = (last[:, 1:] - last[:, :-1] >= span[:, 1:]) | ~filled[:, 1:]
        counted = [x for x in (self.mass, self.reads) if x is not None]
        sane = all(((x >= 0) & x.isfinite()).all() for x in counted)
        some = self.writes is None or bool(((self.writes >= 0) & (self.writes < FARTHEST)).all())
        return bool(fine.all() and apart.all() and sane and some)

    def may_fit(self, sealed: np.ndarray, budget: int) -> bool:
        """See Bank."""
        return self.even(budget)

    @classmethod
    def spans(cls, number: int, told: Mapping[str, Sequence[int]]) -> Spans:
        """See Bank."""
        held = list(zip(told.get("last", ()), told.get("span", ()), strict=False))
        return [(max(0, last + 1 - span), last + 1) for last, span in held[:number]]

    def _view(self, number: np.ndarray, router: Router | None, budget: int) -> View:
        width = min(int(number.max(initial=0)), self.width)
        summary = empty = None
        if self.sums is not None and self.writes is not None:
            writes = self.writes[:, :width]
            summary = self.sums[:, :width] / writes.clamp(min=1).unsqueeze(-1)
            empty = writes == 0 if router is not None and router.blocks > 1 else None
            if empty is not None:  # an empty place is hidden, but its score must be finite
                empty = empty & (writes.sum(-1, keepdim=True) > 0)
        count = np.minimum(number, budget)
        hidden = None if (count == width).all() else torch.from_numpy(np.arange(width) >= count[:, None]).to(self.last.device)
        factors = tuple(s[:, :, :width] for s in self.factors)
        return View(factors, summary, empty, hidden, number, self.last[:, :width])

    def _seal(self, call: Sealer, sealed: Sealed) -> Self:
        """Seal one more segment in some rows."""
        cfg, device, budget = call.memory.cfg, self.last.device, call.budget
        new, number, bank, any_full = self._new(call, sealed), sealed.number, self, True
        if sealed.host is not None:
            known, now = sealed.host
            bank, any_full = (
                self.grown(min(budget, int(np.where(now, known + 1, 0).max(initial=0)))),
                (known[now] >= budget).any(),
            )
        full, width = sealed.now & (number >= budget), bank.width
        both = bank._joined(new)
        gone = torch.full((len(number),), width, device=device)  # the place that is given up; `width`: the new one's own place
        if any_full:
            if cfg.evict == "merge":
                together = both.span[:, :-1] + both.span[:, 1:]
                gone = together.argmin(1)
                both = both._merged(call, gone, full)
            elif cfg.evict == "use" and bank.mass is not None and bank.reads is not None:
                gone = (bank.mass / bank.reads.clamp(min=1)).argmin(1)
            else:
                gone = torch.zeros_like(gone)
        slot = torch.arange(width, device=device)[None]
        count, now_, full_ = (x[:, None] for x in (number, sealed.now, full))
        source = torch.where(full_, slot + (slot >= gone[:, None]), torch.where(now_ & (slot == count), width, slot))

        def pick(x: Tensor, axis: int) -> Tensor:
            index = source.view(len(source), *[width if i == axis else 1 for i in range(1, x.dim())])
            return x.gather(axis, index.expand(*[width if i == axis else n for i, n in enumerate(x.shape)]))

        return both.each(pick)

    def _new(self, call: Sealer, sealed: Sealed) -> Self:
        """One place with the state that is sealed."""
        state, sums = sealed.state, sealed.sums
        factors = rounded(call.memory.cfg.checkpoint_dtype, call.memory.read_factors(state), call.memory.normalizer)
        last, writes = sealed.number.unsqueeze(1), None if sealed.writes is None else sealed.writes.unsqueeze(1)
        fresh = None if self.mass is None else torch.zeros(last.shape, dtype=torch.float64, device=last.device)
        routing = None if sums is None else sums.unsqueeze(1)
        return type(self)(tuple(s.unsqueeze(2) for s in factors), last, torch.ones_like(last), routing, writes, fresh, fresh)

    def _joined(self, new: Self) -> Self:
        """These places, followed by the new one."""
        theirs = (x for _, x in new.leaves())
        return self.each(lambda x, axis: torch.cat([x, next(theirs).to(x.dtype)], axis))

    def _merged(self, call: Sealer, at: Tensor, rows: Tensor) -> Self:
        """With places `at` and `at + 1` [R] merged into the latter, in the given rows."""
        memory, carry = call.memory, call.memory.cfg.start == "carry"

        def pair(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
            index = at.view(-1, *[1] * (x.dim() - 1)).expand(*[1 if i == axis else n for i, n in enumerate(x.shape)])
            return x.gather(axis, index), x.gather(axis, index + 1)

        def put(x: Tensor, value: Tensor, axis: int) -> Tensor:
            place = torch.arange(x.shape[axis], device=x.device)[None] == at[:, None] + 1
            place = (place & rows[:, None]).view(len(x), *[x.shape[axis] if i == axis else 1 for i in range(1, x.dim())])
            return torch.where(place, value, x)

        factors = self.factors
        if not carry:
            first = memory.read_factors(memory.init(1))
            old_new = [pair(x, 2) for x in factors]
            sums = tuple(a + b - w.unsqueeze(2) for (a, b), w in zip(old_new, first, strict=True))
            sums = rounded(memory.cfg.checkpoint_dtype, memory.settled(sums), memory.normalizer)
            factors = tuple(put(x, v, 2) for x, v in zip(factors, sums, strict=True))
        out = dataclasses.replace(self, factors=factors, span=put(self.span, sum(pair(self.span, 1)), 1))  # type: ignore[arg-type]
        if self.sums is not None and self.writes is not None:
            blocks = self.sums.shape[2]

            def halved(x: Tensor) -> Tensor:  # 2 J sub-blocks: sum neighbours
                return torch.cat(pair(x, 1), 2).unflatten(2, (blocks, 2)).sum(3)

            out.sums, out.writes = put(self.sums, halved(self.sums), 1), put(self.writes, halved(self.writes), 1)
        return out


def places(memory: Memory, routing: tuple[int, int] | None) -> int:
    """The largest number of checkpoints that a row keeps.

    max_bytes counts all tensors of one place of the bank, for a model in float32 or narrower, so that the number follows from
    the configuration alone. A layer that shares another layer's routing also counts routing sums, so that both keep equally many.
    """
    cfg = memory.cfg
    if cfg.max_checkpoints is not None:
        return cfg.max_checkpoints
    assert cfg.max_bytes is not None
    each = BudgetBank.empty(memory, 1, routing).grown(1).to(dtype=torch.float32).nbytes
    if cfg.max_bytes < each:
        raise ConfigError(f"max_bytes={cfg.max_bytes} holds no checkpoint of this layer; set max_bytes to at least {each}")
    return cfg.max_bytes // each
