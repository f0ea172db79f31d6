"""The bank of constant segments: every checkpoint is kept, appended, shared by forks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..cache.base import ReadWeights, Router
from ..config.layer import LayerConfig
from ..memory.base import Memory
from ..ops.pages import Pages
from ..schedule.packed import RowPositions
from ..schedule.segments import Segments
from ..schedule.step import Turn
from ..state.entries import Entries
from ..state.paged import PagedStore, Pool, Pools
from ..state.tree import Store
from .base import Bank
from .codec import pack, rounded, unpack
from .sealing import Sealed, Sealer, Sealing
from .view import View


@dataclass
class ConstantBank(Bank):
    """store: packed matrices of each read factor [B, H, N, in, out] and, if routed, mean routing keys [B, N, J, U].

    The entries may be pages of a pool. During a call, the store holds all checkpoints
    that the call seals; each segment chunk sees only the first of them.
    """

    name: ClassVar[str] = "constant"
    asks_empty: ClassVar[bool] = True

    store: Entries

    def __post_init__(self) -> None:
        self._shown = self.store  # what the segment chunks of a call see
        self._none: Tensor | None = None  # result of `_empty` for it

    @classmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Self:
        """See Bank."""
        first = tuple(s.unsqueeze(2) for s in memory.read_factors(memory.init(batch)))
        factors = pack(memory.cfg.checkpoint_dtype, first, memory.normalizer)
        axes = (2,) * len(factors)
        if routing is None:
            return cls(Store.empty(factors, axes))
        like = memory.read_factors(memory.init(1))[0]
        return cls(Store.empty((*factors, like.new_zeros(batch, 1, *routing)), (*axes, 1)))

    @property
    def places(self) -> np.ndarray:
        """See Bank."""
        return self.store.count

    @property
    def in_pages(self) -> bool:
        """See Bank."""
        return self.store.in_pages

    def paged(self, pools: Pool | Pools, cfg: LayerConfig, positions: RowPositions) -> Self:
        """See Bank."""
        cuts, lengths = positions.cuts if self.cuts else (), self.lengths(cfg.updates)
        segments = Segments(cfg.updates, positions.phase, cuts, cfg.sinks, cfg.every, lengths)
        spans = segments.tokens(np.broadcast_to(np.arange(self.store.width), (self.store.rows, self.store.width)))
        return type(self)(PagedStore.of(pools.of(self.store), self.store, spans))

    def sized(self, sealed: np.ndarray, budget: int) -> Self:
        """See Bank."""
        return type(self)(self.store.sized(sealed))

    def begin(self, call: Sealing) -> Self:
        """See Bank. Packed checkpoints carry gradients inside the call that seals them, and none to later calls."""
        schedule, store, kind = call.schedule, self.store, call.memory.cfg.checkpoint_dtype
        shown = store
        if call.width:
            new = tuple(s.transpose(1, 2) for s in call.memory.read_factors(call.sealed_ends()))
            sums, means = call.sealed_sums(), ()
            sealed = schedule.sealed0[:, None] + np.arange(call.width)
            if sums is not None and call.router is not None:
                counts = call.router.writes(schedule.segments, sealed)
                means = (sums / schedule.host(np.maximum(counts, 1)).unsqueeze(-1),)
            spans = schedule.segments.tokens(sealed) if store.in_pages else None
            store = shown = store.append((*pack(kind, new, call.memory.normalizer), *means), schedule.segment_chunks - 1, spans)
            if kind != "float32" and torch.is_grad_enabled():
                kept, leaves = len(self.store.axes) - (call.router is not None and call.router.leads), self.store.views()
                wide = unpack(leaves[:kept], call.dtype) + leaves[kept:]
                shown = Store(wide, self.store.axes[: len(new)] + self.store.axes[kept:], self.store.count)
                shown = shown.append((*rounded(kind, new, call.memory.normalizer), *means), schedule.segment_chunks - 1)
        bank = type(self)(store)
        bank._shown, bank._none = shown, self._empty(schedule.segments, int(schedule.seen.max(initial=0)), call.router)
        return bank

    def view(self, call: Sealing, j: int) -> View:
        """See Bank."""
        return self._view(self._shown, call.schedule.seen[:, j], call.router, self._none)

    def whole(self, call: Sealing) -> View:
        """See Bank."""
        return self._view(self._shown, call.schedule.seen, call.router, self._none)

    def append(self, call: Sealing, j: int, mix: ReadWeights | None) -> Self:
        """See Bank."""
        return self

    def end(self, call: Sealing) -> Self:
        """See Bank."""
        return type(self)(self.store)

    def rows_view(self, router: Router | None, turn: Turn, empty: Tensor | None) -> View:
        """See Bank."""
        width = self.store.room if turn.hints.width is None else turn.hints.width
        held, summary = self._parts(self.store, width, router)
        return View(held, summary, empty, turn.hidden(width), turn.number)

    def seal(self, by: Sealer, sealed: Sealed) -> Self:
        """See Bank."""
        memory, means = by.memory, ()
        if sealed.sums is not None and sealed.writes is not None:
            means = ((sealed.sums / sealed.writes.clamp(min=1).unsqueeze(-1)).unsqueeze(1),)
        new = tuple(s.unsqueeze(2) for s in memory.read_factors(sealed.state))
        leaves = (*pack(memory.cfg.checkpoint_dtype, new, memory.normalizer), *means)
        if sealed.host is None:
            one = tuple(x.squeeze(axis) for x, axis in zip(leaves, self.store.axes, strict=True))
            rows = torch.arange(len(sealed.number), device=sealed.number.device)
            return type(self)(self.store.put(rows, sealed.number, one, sealed.now, inplace=True))
        number, now = sealed.host
        spans = by.segments.tokens(number[:, None]) if self.store.in_pages else None
        return type(self)(self.store.append(leaves, now.astype(np.int64), spans))

    def roomy(self, budget: int) -> Self:
        """See Bank."""
        store = self.store.roomy()
        return self if store is self.store else type(self)(store)

    @property
    def room(self) -> int:
        """See Bank."""
        return self.store.room

    def fits(self, sealed: np.ndarray, budget: int) -> bool:
        """See Bank."""
        return bool((self.store.count == sealed).all())

    def may_fit(self, sealed: np.ndarray, budget: int) -> bool:
        """See Bank."""
        return bool((self.store.count <= sealed).all())

    def _empty(self, segments: Segments, number: int, router: Router | None) -> Tensor | None:
        """bool [R, number, J], sub-blocks without a write; None: there are none, or another layer routes."""
        found = router.empty(segments, number) if router is not None and router.leads else None
        with torch.inference_mode(False):  # it is kept after the call
            return None if found is None else torch.from_numpy(found).to(self.store.device)

    @staticmethod
    def _parts(store: Entries, width: int, router: Router | None) -> tuple[tuple[Tensor, ...] | Pages, Tensor | None]:
        """The first checkpoints of each row, and the means of their routing keys."""
        leads = router is not None and router.leads
        held, rest = store.parts(width, len(store.axes) - leads)
        return held, rest[0] if leads else None

    @classmethod
    def _view(cls, store: Entries, seen: np.ndarray, router: Router | None, empty: Tensor | None) -> View:
        """seen [R], or [R, S] for all segment chunks at once; empty [R, at least as many, J]."""
        width = int(seen.max(initial=0))
        (held, summary), hidden = cls._parts(store, width, router), None
        if summary is not None:
            empty = None if empty is None else empty[:, :width]
        if seen.ndim == 1 and not (seen == width).all():
            hidden = torch.from_numpy(np.arange(width) >= seen[:, None]).to(store.device)
        return View(held, summary, empty, hidden, seen, seen=seen if seen.ndim == 2 else None)
