"""The bank with logarithmic segments: O(log t) checkpoints, one a bit of the number of sealed segments.

After n segments the checkpoints span the binary expansion of n (37 = 32 + 4 + 1); slot l holds the span of 2^l segments
where bit l of n is set. Sealing segment n merges the spans of its trailing ones into one.

start = "carry": the merged checkpoint is simply the newest state. start = "restart": it must hold the writes of its
whole span, so that each slot keeps a *runner*, the state that began where the span begins and is still written to; when
spans merge, the runner of the oldest is what the new checkpoint is. Works for any rule, at O(log t) writes a token. Where a
rule's writes do no more than fade a state and add to it (`Memory.merges`), two spans merge as S = e^{f'} S_older + S_newer, with
f' the newer one's log decay, and there are no runners.
Source: arXiv 2602.24281, section 3.4; arXiv 2506.04761 (Fenwick tree of states).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..cache.base import ReadWeights, Router
from ..memory.base import Inputs, Memory
from ..schedule.segments import Segments
from ..state.tree import State
from .base import Spans
from .codec import pack, rounded, unpack
from .places import PlacesBank
from .sealing import Sealed, Sealing
from .view import View

MOST = 63  # bits of a number of segments


@dataclass
class Fades(State):
    """Log decays of each span, [B, X, ...], and of the online segment so far, [B, ...]."""

    spans: Tensor
    online: Tensor


@dataclass
class LogarithmicBank(PlacesBank):
    """stages: packed matrices [B, H, X, in, out]; sums [B, X, J, U] of routing keys, or None.

    To merge with, where segments restart: runners, leaves [B, X, ...], or fades.
    A span of 2^l segments has J sub-blocks like a segment, each 2^l times as long; all segments but the first are full.
    """

    name: ClassVar[str] = "logarithmic"
    grows: ClassVar[bool] = False
    growth: ClassVar[str] = "O(log t): logarithmic segments"

    stages: tuple[Tensor, ...]
    sums: Tensor | None
    runners: State | None
    fades: Fades | None = None

    @classmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Self:
        """See Bank."""
        start, restart = memory.init(batch), memory.cfg.start == "restart"
        first = memory.stages(start)
        stages = pack(memory.cfg.checkpoint_dtype, tuple(s.unsqueeze(2)[:, :, :0] for s in first), memory.divisors)
        sums = None if routing is None else first[0].new_zeros(batch, 0, *routing)
        if restart and memory.merges is not None and memory.cfg.checkpoint_dtype == "float32":
            zero = first[0].new_zeros(batch, 0, *memory.merges)
            return cls(stages, sums, None, Fades(zero, zero.new_zeros(batch, *memory.merges)))
        return cls(stages, sums, start.map(lambda x: x.unsqueeze(1)[:, :0]) if restart else None)

    def open_axis(self, name: str) -> int | None:
        """See Bank."""
        return None if name == "fades.online" else super().open_axis(name)

    def sized(self, sealed: np.ndarray, budget: int) -> Self:
        """See Bank."""
        return self.grown(_bits(sealed))

    def begin(self, call: Sealing) -> Self:
        """See Bank."""
        bank = dataclasses.replace(self, stages=unpack(self.stages, call.dtype))
        return bank if call.dropped is None else bank._seal(call, call.dropped)

    def view(self, call: Sealing, j: int) -> View:
        """See Bank."""
        return self._view(call.plan.seen[:, j], call.router, call.plan.segments)

    def append(self, call: Sealing, j: int, mix: ReadWeights | None) -> Self:
        """See Bank."""
        bank, sealed = self, call.after(j)
        if bank.runners is not None and bank.width:
            bank = bank._run(call, j)
        if bank.fades is not None:
            bank = dataclasses.replace(bank, fades=bank._faded(bank.fades, call, j))
        return bank if sealed is None else bank._seal(call, sealed)

    def end(self, call: Sealing) -> Self:
        """See Bank."""
        return dataclasses.replace(self, stages=pack(call.memory.cfg.checkpoint_dtype, self.stages, call.memory.divisors))

    @staticmethod
    def _faded(fades: Fades, call: Sealing, j: int) -> Fades:
        """After piece j."""
        faded = call.fading[:, j]
        if j == 0 and not call.plan.dropped:
            faded = faded + fades.online
        going = torch.from_numpy(j < call.plan.pieces - call.plan.dropped).to(faded.device)
        return Fades(fades.spans, torch.where(going.view(-1, *(1,) * (faded.dim() - 1)), faded, fades.online))

    def now(self, router: Router | None, number: int, segments: Segments) -> View:
        """See Bank."""
        return self._view(np.array([number]), router, segments)

    def fits(self, sealed: np.ndarray, budget: int) -> bool:
        """See Bank."""
        return self.even(MOST) and _bits(sealed) <= self.width

    def may_fit(self, sealed: np.ndarray, budget: int) -> bool:
        """See Bank."""
        return self.even(MOST)

    @classmethod
    def spans(cls, number: int, told: Mapping[str, Sequence[int]]) -> Spans:
        """See Bank: the binary digits of the number."""
        edges = [0]
        for bit in reversed(range(number.bit_length())):
            if number >> bit & 1:
                edges.append(edges[-1] + (1 << bit))
        return list(zip(edges[:-1], edges[1:], strict=True))

    def _view(self, number: np.ndarray, router: Router | None, segments: Segments) -> View:
        width = _bits(number)
        level = np.arange(width)[None]
        live = (number[:, None] >> level) & 1 == 1
        stages = tuple(s[:, :, :width] for s in self.stages)
        device, summary, empty = self.stages[0].device, None, None
        first = ((number[:, None] >> level) - 1) << level
        if self.sums is not None and router is not None:
            size = router.block << level[..., None]
            from_ = first[..., None] * segments.full + np.arange(router.blocks) * size
            writes = np.clip(from_ + size - np.maximum(from_, segments.phase[:, None, None]), 0, None)
            summary = self.sums[:, :width] / torch.from_numpy(np.maximum(writes, 1)).to(device).unsqueeze(-1)
            none = (writes == 0) & live[..., None]
            empty = torch.from_numpy(none).to(device) if none.any() else None
        hidden = None if live.all() else torch.from_numpy(~live).to(device)
        last = first + (1 << level) - 1
        return View(stages, summary, empty, hidden, number, last, newest_last=False)

    def _run(self, call: Sealing, j: int) -> Self:
        """Write piece j into every runner."""
        assert self.runners is not None
        width, first = self.width, j == 0 and not call.plan.dropped
        group, after = slice(j, None, call.plan.shape[1]), call.ends.map(lambda x: x[:, j])
        carried = call.written.carried(group, self.runners, call.before if first else None, after)
        if carried is not None:
            return dataclasses.replace(self, runners=carried)

        def each(x: Tensor) -> Tensor:
            return x[:, j : j + 1].unsqueeze(1).expand(-1, width, *(-1,) * (x.dim() - 1)).flatten(0, 1)

        valid = None if call.valid is None else each(call.valid)
        inputs = {k: each(x) for k, x in call.inputs.items()}
        written = call.memory.scan(inputs, valid, each(call.skip), self.runners.map(lambda x: x.flatten(0, 1)))
        return dataclasses.replace(self, runners=written.ends.map(lambda x: x[:, 0].unflatten(0, (-1, width))))

    def step(self, memory: Memory, inputs: Inputs, shift: int) -> Self:
        """See Bank: into every runner, or what it fades."""
        if self.fades is not None:
            return dataclasses.replace(self, fades=Fades(self.fades.spans, self.fades.online + memory.fading(inputs)))
        if self.runners is None or not self.width:
            return self
        width = self.width
        each = {k: v.unsqueeze(1).expand(-1, width, *(-1,) * (v.dim() - 1)).flatten(0, 1) for k, v in inputs.items()}
        runners = memory.step(each, shift, self.runners.map(lambda x: x.flatten(0, 1)))
        return dataclasses.replace(self, runners=runners.map(lambda x: x.unflatten(0, (-1, width))))

    def _seal(self, call: Sealing, sealed: Sealed) -> Self:
        """With a segment more in some rows."""
        number, now, state, sums = sealed.number, sealed.now, sealed.state, sealed.sums
        merged = np.array([(~int(n) & (int(n) + 1)).bit_length() - 1 for n in number], np.int64)
        bank = self.grown(int(np.where(now, merged + 1, 0).max()))
        slot = np.arange(bank.width)[None]
        here = call.plan.host((slot == merged[:, None]) & now[:, None])
        source = call.plan.host(merged)

        below = call.plan.host((slot < merged[:, None]) & now[:, None])

        def put(old: Tensor, new: Tensor, axis: int) -> Tensor:
            shape = [1] * old.dim()
            shape[0], shape[axis] = len(here), bank.width
            return torch.where(here.view(shape), new.unsqueeze(axis), old.masked_fill(below.view(shape), 0.0))

        runners, block = bank.runners, state
        if runners is not None:

            def pick(first: Any, rest: Any) -> Any:
                both = torch.cat([first.unsqueeze(1), rest], 1)
                index = source.view(-1, *(1,) * (both.dim() - 1)).expand(-1, 1, *both.shape[2:])
                return both.gather(1, index)[:, 0]

            block = type(state)(**{n: pick(getattr(state, n), getattr(runners, n)) for n in vars(state)})
            runners = type(state)(**{n: put(getattr(runners, n), getattr(block, n), 1) for n in vars(state)})
        matrices, fades = call.memory.stages(block), bank.fades
        most = int(np.where(now, merged, 0).max(initial=0))

        def at(folded: list[Tensor]) -> Tensor:
            """Of what has been merged with 0, 1, 2 ... levels, each row's own."""
            each = torch.stack(folded, 1)
            index = source.clamp(max=most).view(-1, *(1,) * (each.dim() - 1)).expand(-1, 1, *each.shape[2:])
            return each.gather(1, index)[:, 0]

        if fades is not None:
            whole, faded = [matrices[0]], [fades.online]
            for level in range(most):
                keep = faded[-1].exp()
                keep = keep[(..., *(None,) * (whole[-1].dim() - keep.dim()))]
                whole.append(torch.addcmul(whole[-1], keep, bank.stages[0][:, :, level]))
                faded.append(faded[-1] + fades.spans[:, level])
            matrices, fades = (at(whole),), Fades(put(fades.spans, at(faded), 1), fades.online)
        new = rounded(call.memory.cfg.checkpoint_dtype, matrices, call.memory.divisors)
        stages = tuple(put(o, n, 2) for o, n in zip(bank.stages, new, strict=True))
        total = None
        if bank.sums is not None and sums is not None:
            folded = [sums]
            for level in range(most):  # 2 J sub-blocks, neighbours together
                both = torch.cat([bank.sums[:, level], folded[-1]], 1)
                folded.append(both.unflatten(1, (-1, 2)).sum(2))
            total = put(bank.sums, at(folded), 1)
        return type(self)(stages, total, runners, fades)


def _bits(number: np.ndarray) -> int:
    """The digits of the largest number."""
    return max((int(n).bit_length() for n in number), default=0)
