"""The bank with logarithmic segments: O(log t) checkpoints, one per set bit of the number of sealed segments.

After n segments the checkpoints span the binary expansion of n (37 = 32 + 4 + 1); slot l holds the span of 2^l segments
if bit l of n is set. Sealing segment n merges the spans of its trailing ones into one.

start = "carry": the merged checkpoint is the newest state. start = "restart": the merged checkpoint must hold the writes of its
whole span, so each slot keeps a *span state*: a state that started at the span's start and still receives every write; when
spans merge, the span state of the oldest becomes the new checkpoint. This works for any rule, at O(log t) writes per token. If a
rule's writes only decay a state and add to it (`Memory.merges`), two spans merge as S = e^{f'} S_older + S_newer, with
f' the newer one's log decay, and no span states are needed.
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
from ..schedule.step import Turn, keep, kept
from ..state.tree import State
from .base import Spans
from .codec import pack, rounded, unpack
from .places import PlacesBank
from .sealing import Sealed, Sealer, Sealing
from .view import View

MOST = 63  # bits of a number of segments


@dataclass
class LogDecays(State):
    """Log decays of each span, [B, X, ...], and of the online segment so far, [B, ...]."""

    spans: Tensor
    online: Tensor


@dataclass
class LogarithmicBank(PlacesBank):
    """factors: packed matrices [B, H, X, in, out]; sums [B, X, J, U] of routing keys, or None.

    For merging, if segments restart: span_states, leaves [B, X, ...], or log_decays.
    A span of 2^l segments has J sub-blocks like a segment, each 2^l times as long; all segments but the first are full.
    """

    name: ClassVar[str] = "logarithmic"
    grows: ClassVar[bool] = False
    growth: ClassVar[str] = "O(log t): logarithmic segments"
    stored: ClassVar[dict[str, str]] = {"factors": "stages", "span_states": "runners", "log_decays": "fades"}

    factors: tuple[Tensor, ...]
    sums: Tensor | None
    span_states: State | None
    log_decays: LogDecays | None = None

    @classmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Self:
        """See Bank."""
        start, restart = memory.init(batch), memory.cfg.start == "restart"
        first = memory.read_factors(start)
        factors = pack(memory.cfg.checkpoint_dtype, tuple(s.unsqueeze(2)[:, :, :0] for s in first), memory.normalizer)
        sums = None if routing is None else first[0].new_zeros(batch, 0, *routing)
        if restart and memory.merges is not None and memory.cfg.checkpoint_dtype == "float32":
            zero = first[0].new_zeros(batch, 0, *memory.merges)
            return cls(factors, sums, None, LogDecays(zero, zero.new_zeros(batch, *memory.merges)))
        return cls(factors, sums, start.map(lambda x: x.unsqueeze(1)[:, :0]) if restart else None)

    def open_axis(self, name: str) -> int | None:
        """See Bank."""
        return None if name == "fades.online" else super().open_axis(name)

    def sized(self, sealed: np.ndarray, budget: int) -> Self:
        """See Bank."""
        return self.grown(_bits(sealed))

    def begin(self, call: Sealing) -> Self:
        """See Bank."""
        bank = dataclasses.replace(self, factors=unpack(self.factors, call.dtype))
        return bank if call.dropped is None else bank._seal(call, call.dropped)

    def view(self, call: Sealing, j: int) -> View:
        """See Bank."""
        return self._view(call.schedule.seen[:, j], call.router, call.schedule.segments)

    def append(self, call: Sealing, j: int, mix: ReadWeights | None) -> Self:
        """See Bank."""
        bank, sealed = self, call.after(j)
        if bank.span_states is not None and bank.width:
            bank = bank._run(call, j)
        if bank.log_decays is not None:
            bank = dataclasses.replace(bank, log_decays=bank._decayed(bank.log_decays, call, j))
        return bank if sealed is None else bank._seal(call, sealed)

    def end(self, call: Sealing) -> Self:
        """See Bank."""
        return dataclasses.replace(self, factors=pack(call.memory.cfg.checkpoint_dtype, self.factors, call.memory.normalizer))

    @staticmethod
    def _decayed(log_decays: LogDecays, call: Sealing, j: int) -> LogDecays:
        """After segment chunk j."""
        decayed = call.log_decay[:, j]
        if j == 0 and not call.schedule.dropped:
            decayed = decayed + log_decays.online
        going = torch.from_numpy(j < call.schedule.segment_chunks - call.schedule.dropped).to(decayed.device)
        return LogDecays(log_decays.spans, torch.where(going.view(-1, *(1,) * (decayed.dim() - 1)), decayed, log_decays.online))

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
        factors = tuple(s[:, :, :width] for s in self.factors)
        device, summary, empty = self.factors[0].device, None, None
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
        return View(factors, summary, empty, hidden, number, last, newest_last=False)

    def _run(self, call: Sealing, j: int) -> Self:
        """Write segment chunk j into every span state."""
        assert self.span_states is not None
        width, first = self.width, j == 0 and not call.schedule.dropped
        group, after = slice(j, None, call.schedule.shape[1]), call.ends.map(lambda x: x[:, j])
        carried = call.written.carried(group, self.span_states, call.before if first else None, after)
        if carried is not None:
            return dataclasses.replace(self, span_states=carried)

        def each(x: Tensor) -> Tensor:
            return x[:, j : j + 1].unsqueeze(1).expand(-1, width, *(-1,) * (x.dim() - 1)).flatten(0, 1)

        valid = None if call.valid is None else each(call.valid)
        inputs = {k: each(x) for k, x in call.inputs.items()}
        written = call.memory.scan(inputs, valid, each(call.skip), self.span_states.map(lambda x: x.flatten(0, 1)))
        return dataclasses.replace(self, span_states=written.ends.map(lambda x: x[:, 0].unflatten(0, (-1, width))))

    def step(self, memory: Memory, inputs: Inputs, begins: Tensor | None, wrote: Tensor | None) -> Self:
        """See Bank: into every span state, or its log decay."""
        if self.log_decays is not None:
            online = self.log_decays.online
            now = keep(wrote, online + memory.log_decay(inputs), online)
            return dataclasses.replace(self, log_decays=LogDecays(self.log_decays.spans, now))
        if self.span_states is None or not self.width:
            return self
        width = self.width

        def each(x: Tensor) -> Tensor:
            return x.unsqueeze(1).expand(-1, width, *(-1,) * (x.dim() - 1)).flatten(0, 1)

        first = None if begins is None else each(begins)
        flat = self.span_states.map(lambda x: x.flatten(0, 1))
        after = memory.step({k: each(v) for k, v in inputs.items()}, first, flat).map(lambda x: x.unflatten(0, (-1, width)))
        return dataclasses.replace(self, span_states=kept(wrote, after, self.span_states))

    def rows_view(self, router: Router | None, turn: Turn, empty: Tensor | None) -> View:
        """See Bank."""
        number, width, summary, empty = turn.number[:, None], self.width, None, None
        level = torch.arange(width, device=number.device)
        hidden = turn.once(("hidden", width), lambda: (number >> level) & 1 == 0)
        first = turn.once(("first", width), lambda: ((number >> level) - 1) << level)
        if self.sums is not None and router is not None:
            key = (width, router.block, router.blocks)
            writes = turn.once(("writes", key), lambda: _writes(turn, first, level, router.block, router.blocks))
            empty = turn.once(("empty", key), lambda: (writes == 0) & ~hidden[..., None])
            summary = self.sums / turn.once(("counts", key), lambda: writes.clamp(min=1).unsqueeze(-1))
        last = turn.once(("last", width), lambda: first + (1 << level) - 1)
        return View(self.factors, summary, empty, hidden, turn.number, last, newest_last=False)

    def seal(self, by: Sealer, sealed: Sealed) -> Self:
        """See Bank."""
        memory, bank = by.memory, dataclasses.replace(self, factors=unpack(self.factors, by.dtype))._seal(by, sealed)
        bank = dataclasses.replace(bank, factors=pack(memory.cfg.checkpoint_dtype, bank.factors, memory.normalizer))
        if bank.log_decays is not None:
            online = keep(sealed.now, torch.zeros_like(bank.log_decays.online), bank.log_decays.online)
            bank = dataclasses.replace(bank, log_decays=LogDecays(bank.log_decays.spans, online))
        return bank

    def _seal(self, call: Sealer, sealed: Sealed) -> Self:
        """Seal one more segment in some rows."""
        now, state, sums = sealed.now[:, None], sealed.state, sealed.sums
        bank, most = self, self.width - 1
        if sealed.host is not None:
            joined = [trailing_ones(int(n)) for n, here in zip(*sealed.host, strict=True) if here]
            most = max(joined, default=0)
            bank = self.grown(most + 1 if joined else 0)
        slot = torch.arange(bank.width, device=now.device)
        source = ((sealed.number[:, None] >> slot) & 1).cumprod(1).sum(1)  # levels that are merged: the number's trailing ones
        here, below = (slot == source[:, None]) & now, (slot < source[:, None]) & now

        def put(old: Tensor, new: Tensor, axis: int) -> Tensor:
            shape = [1] * old.dim()
            shape[0], shape[axis] = len(here), bank.width
            return torch.where(here.view(shape), new.unsqueeze(axis), old.masked_fill(below.view(shape), 0.0))

        span_states, block = bank.span_states, state
        if span_states is not None:

            def pick(first: Any, rest: Any) -> Any:
                both = torch.cat([first.unsqueeze(1), rest], 1)
                index = source.view(-1, *(1,) * (both.dim() - 1)).expand(-1, 1, *both.shape[2:])
                return both.gather(1, index)[:, 0]

            block = type(state)(**{n: pick(getattr(state, n), getattr(span_states, n)) for n in vars(state)})
            span_states = type(state)(**{n: put(getattr(span_states, n), getattr(block, n), 1) for n in vars(state)})
        matrices, log_decays = call.memory.read_factors(block), bank.log_decays

        def at(folded: list[Tensor]) -> Tensor:
            """Selects, for each row, the result after its own number of merged levels (0, 1, 2, ...)."""
            each = torch.stack(folded, 1)
            index = source.clamp(max=most).view(-1, *(1,) * (each.dim() - 1)).expand(-1, 1, *each.shape[2:])
            return each.gather(1, index)[:, 0]

        if log_decays is not None:
            whole, decayed = [matrices[0]], [log_decays.online]
            for level in range(most):
                keep = decayed[-1].exp()
                keep = keep[(..., *(None,) * (whole[-1].dim() - keep.dim()))]
                whole.append(torch.addcmul(whole[-1], keep, bank.factors[0][:, :, level]))
                decayed.append(decayed[-1] + log_decays.spans[:, level])
            matrices, log_decays = (at(whole),), LogDecays(put(log_decays.spans, at(decayed), 1), log_decays.online)
        new = rounded(call.memory.cfg.checkpoint_dtype, matrices, call.memory.normalizer)
        factors = tuple(put(o, n, 2) for o, n in zip(bank.factors, new, strict=True))
        total = None
        if bank.sums is not None and sums is not None:
            folded = [sums]
            for level in range(most):  # 2 J sub-blocks: sum neighbours
                both = torch.cat([bank.sums[:, level], folded[-1]], 1)
                folded.append(both.unflatten(1, (-1, 2)).sum(2))
            total = put(bank.sums, at(folded), 1)
        return type(self)(factors, total, span_states, log_decays)


def _writes(turn: Turn, first: Tensor, level: Tensor, block: int, blocks: int) -> Tensor:
    """int64 [B, X, J], writes of each sub-block of the spans that begin with the segments `first` [B, X]."""
    size = (block << level)[:, None]
    start = first[..., None] * turn.geo.per_segment + torch.arange(blocks, device=first.device) * size
    return (start + size - torch.maximum(start, turn.phase[:, None, None])).clamp(min=0)


def trailing_ones(number: int) -> int:
    """Of its binary digits."""
    return (~number & (number + 1)).bit_length() - 1


def _bits(number: np.ndarray) -> int:
    """The number of binary digits of the largest number."""
    return max((int(n).bit_length() for n in number), default=0)
