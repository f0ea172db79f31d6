"""The index arithmetic of one call, computed once and shared by all layers of the same geometry.

In this file a write is an update of the memory: `rate` is the number of tokens per update (`compress_every`), and an update may
be a group of several writes.

After n tokens of a life, left(n) = max(0, n - delay - sinks) tokens have left the window and M(n) = left(n) // rate
writes are made. Write m takes tokens sinks + m*rate ... and belongs to a segment (see segments.py).

The queries of a run are split into *segment chunks*: the queries during which one segment is online. Inside a segment chunk,
write slot l is followed by the `rate` query slots l*rate ... l*rate + rate-1, which see writes up to slot l. A segment chunk that
begins in the middle of a block leaves its first write slot empty (the state has that write already). `align` shifts the slots
of a segment chunk to the right, so that slot numbers equal the count of writes since the cut, modulo `align`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .packed import PackedBatch, RowPositions
from .segments import Segments

ENDLESS = 1 << 60


@dataclass(frozen=True)
class Geometry:
    """The part of a layer's configuration that decides when each token is written."""

    window: int
    sinks: int
    delay: int
    rate: int
    per_segment: int = ENDLESS
    align: int = 1
    chunk: int = 64
    content: bool = False
    lengths: tuple[int, ...] = ()

    @property
    def timing(self) -> tuple[Any, ...]:
        """All but how many slots are handled at a time: layers that agree in this write and seal at the same tokens."""
        return (self.window, self.sinks, self.delay, self.rate, self.per_segment, self.content, self.lengths)

    @property
    def ring(self) -> int:
        """E, the tokens before a call that its queries can still attend to exactly."""
        return self.window + self.rate - 1 if self.delay else self.window

    @property
    def ring_input(self) -> int:
        """The number of tokens before a call that may still have to be written."""
        return self.delay + self.rate - 1

    def written(self, seen: Any) -> Any:
        """M(n), the writes made after n tokens."""
        return np.maximum(0, seen - self.delay - self.sinks) // self.rate

    def segments(self, positions: RowPositions) -> Segments:
        """The assignment of the rows' writes to segments."""
        cuts = positions.cuts if self.content else ()
        return Segments(self.per_segment, positions.phase, cuts, self.sinks, self.rate, self.lengths, positions.known)

    def sealed(self, positions: RowPositions) -> np.ndarray:
        """[R] the number of checkpoints that rows have sealed."""
        return self.segments(positions).sealed(self.written(positions.position))


class Take:
    """Selects positions along axis 1, separately for each run; a slice if all runs select the same range."""

    def __init__(self, index: np.ndarray, schedule: CallSchedule):
        self.length, self._schedule, self._host = index.shape[1], schedule, index
        start = int(index[0, 0]) if index.size else 0
        self._slice = start if bool((index == start + np.arange(self.length)).all()) else None

    @cached_property
    def _index(self) -> Tensor:
        return self._schedule.host(self._host)

    def __call__(self, x: Tensor) -> Tensor:
        """x [R, n, ...] -> [R, length, ...]."""
        if self._slice is not None:
            return x.narrow(1, self._slice, self.length)
        offset = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
        return x.flatten(0, 1).index_select(0, (self._index + offset).flatten()).unflatten(0, (x.shape[0], self.length))


class CallSchedule:
    """Indices for one call of one geometry. Arrays are [R, S] unless stated otherwise.

    start, stop      token range of each segment chunk in its run
    lead             query slots left empty before a segment chunk's first query
    skip             write slots left empty before a segment chunk's first write
    since            writes that the segment holds up to and including slot `shift`, minus one
    shift            slots by which a segment chunk is moved to the right for `align`
    sealed0          [R] checkpoints before the call; segment chunk j sees sealed0 + dropped + j of them
    dropped          1 where the online state of every run is sealed before the call's first read, else 0
    segment_chunks   [R] number of segment chunks of each run, the dropped one included
    writes0, writes  [R] writes made before the call, and in it
    slots            L, write slots of a segment chunk
    segments         the assignment of the runs' writes to segments
    """

    def __init__(self, packed: PackedBatch, geo: Geometry, device: torch.device):
        self.packed, self.geo, self.device = packed, geo, device
        self.segments = segments = geo.segments(packed.positions)
        pos, n, r = packed.positions.position, packed.length, geo.rate
        away = geo.delay + geo.sinks
        self.writes0 = geo.written(pos)
        self.writes = geo.written(pos + n) - self.writes0
        self.sealed0 = segments.sealed(self.writes0)
        begin = np.minimum(np.maximum(0, away + r - 1 - pos), n)
        self.active = begin < n
        self.segment_chunks = np.where(self.active, segments.sealed(self.writes0 + self.writes) - self.sealed0 + 1, 1)

        def opening(j: Any) -> Any:  # token at which segment sealed0 + j gets its first write
            return (segments.opens(self.sealed0[:, None] + j) + 1) * r + away - 1 - pos[:, None]

        self.dropped = int(
            bool(self.segment_chunks.size and (self.segment_chunks > 1).all() and (opening(np.array([[1]]))[:, 0] <= begin).all())
        )
        j = np.arange(self.dropped, int(self.segment_chunks.max(initial=1)))[None]
        at = (
            np.where(j == 0, begin[:, None], opening(j))
            if geo.per_segment < ENDLESS
            else np.broadcast_to(begin[:, None], (len(n), 1))
        )
        at = np.where(j < self.segment_chunks[:, None], np.minimum(at, n[:, None]), n[:, None])
        self.start, self.stop = at, np.concatenate([at[:, 1:], n[:, None]], 1)
        busy = self.stop > self.start
        gone = np.maximum(pos[:, None] + at + 1 - away, 0)
        offset = np.where(busy, gone % r, 0)
        opened = segments.opens(self.sealed0[:, None] + j)
        self.since = np.where(busy, gone // r - 1 - opened, 0)
        self.shift = self.since % geo.align
        self.first = gone // r - 1 - self.shift
        self.skip = np.where(busy, self.shift + (offset > 0), 0)
        self.lead = self.shift * r + offset
        self.fill = np.where(busy, self.lead + self.stop - self.start, 0)
        self.slots = self._whole_chunks(max(1, int(-(-self.fill.max(initial=1) // r))))

    @property
    def shape(self) -> tuple[int, int]:
        """(R, S)."""
        return self.start.shape[0], self.start.shape[1]

    @property
    def most(self) -> int:
        """M, the largest number of writes of a run, at least 1."""
        return max(1, int(self.writes.max(initial=1)))

    @property
    def idle(self) -> bool:
        """Whether no token of this call sees a memory."""
        return not self.active.any()

    @cached_property
    def seen(self) -> np.ndarray:
        """[R, S] checkpoints that the queries of each segment chunk see."""
        segment_chunk = np.arange(self.dropped, self.dropped + self.shape[1])
        return self.sealed0[:, None] + np.minimum(segment_chunk, self.segment_chunks[:, None] - 1)

    def host(self, x: np.ndarray) -> Tensor:
        """A tensor of the array on the call's device."""
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.device, non_blocking=True)

    def _whole_chunks(self, slots: int) -> int:
        """Slots, rounded up to whole scan chunks: of equal length, at most `chunk`, or of `align` exactly."""
        if self.geo.align > 1:
            return -(-slots // self.geo.align) * self.geo.align
        count = -(-slots // self.geo.chunk)
        return -(-slots // count) * count

    @cached_property
    def query_take(self) -> Take:
        """Tokens [R, T] -> query slots [R, S*Q]."""
        q = np.arange(self.slots * self.geo.rate)[None, None]
        i = np.clip(self.start[..., None] + q - self.lead[..., None], 0, max(self.packed.width - 1, 0))
        return Take(i.reshape(len(i), -1), self)

    @cached_property
    def query_back(self) -> tuple[Take, Tensor | None]:
        """Query slots [R, S*Q] -> tokens [R, T]; and [R, T] whether each token sees a memory (None: all do)."""
        rows, segment_chunks = self.shape
        wide = self.slots * self.geo.rate
        if (
            not self.lead.any()
            and (self.start == np.arange(segment_chunks) * wide).all()
            and (self.packed.length == self.packed.width).all()
        ):
            return Take(np.arange(self.packed.width)[None], self), None  # segment chunks are full and aligned
        i = np.broadcast_to(np.arange(self.packed.width)[None], (rows, self.packed.width))
        j = np.clip((i[..., None] >= self.start[:, None, :]).sum(-1) - 1, 0, segment_chunks - 1)
        last = np.maximum((self.stop > self.start).sum(-1, keepdims=True) - 1, 0)
        j = np.where(i < self.packed.length[:, None], j, last)
        slot = i - np.take_along_axis(self.start, j, 1) + np.take_along_axis(self.lead, j, 1)
        sees = (i >= self.start[:, :1]) & (i < self.packed.length[:, None])
        return Take(j * wide + np.clip(slot, 0, wide - 1), self), None if sees.all() else self.host(sees)

    @cached_property
    def write_source(self) -> Take:
        """History and call [R, ring_input + T], concatenated -> tokens written [R, M*rate].

        Slots beyond a run's own writes hold an arbitrary token of the call.
        """
        wide = self.geo.ring_input + self.packed.width
        token = self.geo.sinks + (self.writes0[:, None] + np.arange(self.most)[None]) * self.geo.rate
        token = token[..., None] + np.arange(self.geo.rate) - self.packed.positions.position[:, None, None] + self.geo.ring_input
        return Take(np.clip(token, 0, wide - 1).reshape(len(token), -1), self)

    @cached_property
    def update_window(self) -> Take:
        """Means of W consecutive tokens, [R, ring_input + T - W + 1] of history and call -> the window's at each write [R, M]."""
        token = self.geo.sinks + (self.writes0[:, None] + np.arange(1, self.most + 1)) * self.geo.rate
        first = token - self.packed.positions.position[:, None] + self.geo.ring_input  # the window begins where the block ends
        return Take(np.clip(first, 0, self.geo.ring_input + self.packed.width - self.geo.window), self)

    @cached_property
    def write_take(self) -> Take:
        """Writes [R, M] -> write slots [R, S*L]."""
        m = self.first[..., None] + np.arange(self.slots) - self.writes0[:, None, None]
        return Take(np.clip(m, 0, self.most - 1).reshape(len(m), -1), self)

    @cached_property
    def write_back(self) -> np.ndarray:
        """[R, M] the write slot of each write, of S*L; the last one stands for writes that a run does not make."""
        m = (self.first[..., None] + np.arange(self.slots) - self.writes0[:, None, None]).reshape(len(self.first), -1)
        row, slot = self._filled.reshape(m.shape).nonzero()
        out = np.full((len(m), self.most), m.shape[1] - 1)
        out[row, m[row, slot]] = slot
        return out

    @property
    def _filled(self) -> np.ndarray:
        """bool [R, S, L], which write slots hold a write."""
        slot = np.arange(self.slots)
        return (slot >= self.skip[..., None]) & (slot * self.geo.rate < self.fill[..., None])

    @cached_property
    def valid(self) -> Tensor | None:
        """[R, S, L] which write slots hold a write (None: all)."""
        ok = self._filled
        return None if ok.all() else self.host(ok)

    @cached_property
    def held(self) -> Tensor:
        """[R, S, L] writes that the segment holds at each slot, at least 1."""
        return self.host(np.maximum(self.since[..., None] + np.arange(self.slots) - self.shift[..., None] + 1, 1))

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """The place in its segment of each segment chunk's first write [R, S], and of each write slot [R, S, L].

        Places count from the start of a segment of full length; slots without a write may lie outside the segment.
        """
        segment = self.sealed0[:, None] + np.arange(self.dropped, self.dropped + self.shape[1])
        start = self.segments.begins(segment)
        slot = np.arange(self.slots) + self.first[..., None]
        return start, start[..., None] + slot - self.segments.opens(segment)[..., None]

    @cached_property
    def asked(self) -> Tensor | None:
        """[R, S, Q] which query slots hold a query (None: all)."""
        slot = np.arange(self.slots * self.geo.rate)
        ok = (slot >= self.lead[..., None]) & (slot < self.fill[..., None])
        return None if ok.all() else self.host(ok)
