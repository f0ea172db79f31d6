"""Assigns writes to segments: a segment ends when it is full, and with segments="content" also where the caller cuts.

The segments of a row follow from its *anchors* (a_i, n_i), a ascending: segment n_i begins with write a_i, and from there on
segments are `full` writes long up to the next anchor. Write m with a_i <= m < a_{i+1} is in segment n_i + (m - a_i) // full,
and n_{i+1} = n_i + ceil((a_{i+1} - a_i) / full). The first anchor is (-phase, 0). A cut at token t, part of write m, makes
m + 1 an anchor: the segment that ends with write m stays online until the next write begins a new one. A cut takes effect after
the write of its token, so cuts of later tokens change nothing for earlier tokens. Rows without cuts have one anchor.

If the first segments have their own lengths, each of them begins at an anchor, and so does the first full one. A row of
phase p starts as if p writes had been made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..state.claims import Claims


class Growing:
    """int64 [..., n] that can be extended; in place if no other holder of the memory has already extended it."""

    def __init__(self, room: np.ndarray, count: int | None = None, claims: Claims | None = None):
        self._room, self._count = room, room.shape[-1] if count is None else count
        self._claims = Claims(self._count) if claims is None else claims

    @property
    def values(self) -> np.ndarray:
        """The numbers, int64 [..., n]."""
        return self._room[..., : self._count]

    def append(self, new: np.ndarray) -> Growing:
        """With new [..., more] appended."""
        count, room, claims = self._count + new.shape[-1], self._room, self._claims
        if count > room.shape[-1] or not claims.claim(self._count, count):
            spare = np.zeros((*room.shape[:-1], max(count, 16)), np.int64)
            room, claims = np.concatenate([self.values, spare], -1), Claims(count)
        room[..., self._count : count] = new
        return Growing(room, count, claims)


class Layout(NamedTuple):
    """What anchors depend on besides cuts: tokens that are never written, tokens per write, writes of a full segment, phase."""

    sinks: int
    rate: int
    full: int
    phase: int

    def extend(self, anchors: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The anchors [2, more] that cuts at `tokens` append to `anchors` [2, n]; cuts in one write repeat the same anchor."""
        after = (tokens[tokens >= self.sinks] - self.sinks) // self.rate + 1
        number = anchors[1, -1] + np.cumsum(-(-np.diff(after, prepend=anchors[0, -1]) // self.full))
        return np.stack([after, number])


class Cuts:
    """The tokens of one row's life at which the caller cut, ascending. A value; anchors are cached for each layout."""

    def __init__(self, tokens: Any = ()):
        self._tokens = Growing(np.array(tokens, np.int64))
        self._anchors: dict[Layout, Growing] = {}

    @property
    def tokens(self) -> np.ndarray:
        """int64 [n]."""
        return self._tokens.values

    def add(self, tokens: np.ndarray) -> Cuts:
        """With cuts at later tokens."""
        out = Cuts.__new__(Cuts)
        out._tokens = self._tokens.append(tokens)
        out._anchors = {key: x.append(key.extend(x.values, tokens)) for key, x in self._anchors.copy().items()}
        return out

    def anchors(self, layout: Layout) -> np.ndarray:
        """int64 [2, n]: writes, and the segments that they begin."""
        if layout not in self._anchors:
            first = np.array([[-layout.phase], [0]])
            self._anchors[layout] = Growing(np.concatenate([first, layout.extend(first, self.tokens)], 1))
        return self._anchors[layout].values


def held(place: np.ndarray, start: np.ndarray, block: int, blocks: int) -> np.ndarray:
    """Writes per sub-block [..., J] of a segment that begins at `start` and is written up to `place` (inclusive) [...]."""
    from_, to = np.arange(blocks) * block, np.arange(1, blocks + 1) * block
    return np.clip(np.minimum(place[..., None] + 1, to) - np.maximum(from_, start[..., None]), 0, None)


@lru_cache(maxsize=4096)
def opening(lengths: tuple[int, ...], full: int, phase: int) -> np.ndarray:
    """The anchors [2, n] of a row whose first segments have these lengths, and all later ones `full`; cached: do not edit it."""
    if not all(1 <= n <= full for n in lengths):
        raise ValueError(f"the lengths {lengths} of segments must be from 1 to {full} writes")
    writes = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) - phase
    writes = writes[max(0, int(writes.searchsorted(0, "right")) - 1) :]
    writes[0] = -(-writes[0] % full) if len(writes) == 1 else writes[0]
    return np.stack([writes, np.arange(len(writes))])


class Segments:
    """The segments of some rows. full: writes of a full one; phase [R]; cuts: each row's, () if there are none;
    lengths: writes of the first segments, if they differ (then there are no cuts); known: results for the same phases and cuts.

    Numbers of writes and segments are arrays [R, ...], or are broadcast against [R, 1, ...]. After construction, `phase` is the
    number of writes by which the first segment is shorter than a full one.
    """

    def __init__(
        self,
        full: int,
        phase: np.ndarray,
        cuts: tuple[Cuts, ...] = (),
        sinks: int = 0,
        rate: int = 1,
        lengths: Sequence[int] = (),
        known: dict[Any, Any] | None = None,
    ):
        self._known = {} if known is None else known
        self._layout = (full, sinks, rate, tuple(lengths), bool(cuts))
        self.full, self.phase, self._sinks, self._rate = full, phase, sinks, rate
        rows = [c.anchors(Layout(sinks, rate, full, int(p))) for c, p in zip(cuts, phase, strict=True)] if cuts else []
        if lengths:
            rows = [opening(tuple(lengths), full, int(p)) for p in phase]
            self.phase = np.array([-a[0, 0] for a in rows], np.int64)
        self._anchors = rows if any(x.shape[1] > 1 for x in rows) else []

    def _anchor(self, key: int, x: np.ndarray) -> tuple[Any, Any]:
        """The anchor (write, segment) before each write (key 0) or segment (key 1) x."""
        if not self._anchors:
            return -self.phase.reshape(-1, *(1,) * (np.ndim(x) - 1)), 0
        x = np.broadcast_to(x, (len(self._anchors), *np.shape(x)[1:]))
        found = [a[:, np.searchsorted(a[key], y, "right") - 1] for a, y in zip(self._anchors, x, strict=True)]
        return np.stack([f[0] for f in found]), np.stack([f[1] for f in found])

    def sealed(self, writes: Any) -> Any:
        """Checkpoints sealed after `writes` writes; also the number of the online segment."""
        last = np.maximum(writes, 1) - 1
        write, number = self._anchor(0, last)
        return number + (last - write) // self.full

    def opens(self, segment: Any) -> Any:
        """Number of a segment's first write."""
        write, number = self._anchor(1, segment)
        return np.maximum(0, write + (segment - number) * self.full)

    def begins(self, segment: Any) -> Any:
        """The place of a segment's first write in it: 0, or `phase` for the first one if it is shorter."""
        return np.where(segment == 0, self.phase.reshape(-1, *(1,) * (np.ndim(segment) - 1)), 0)

    def tokens(self, segment: np.ndarray) -> np.ndarray:
        """[R, ..., 2] the tokens [first, end) that are written to sealed segments [R, ...]."""
        return self._sinks + self._rate * np.stack([self.opens(segment), self.opens(segment + 1)], -1)

    def writes(self, segment: np.ndarray, block: int, blocks: int) -> np.ndarray:
        """[R, ..., J] writes of each sub-block of sealed segments [R, ...]."""
        start, size = self.begins(segment), self.opens(segment + 1) - self.opens(segment)
        return held(start + size - 1, start, block, blocks)

    def empty(self, number: int, block: int, blocks: int) -> np.ndarray | None:
        """bool [R, number, J], which sub-blocks of the first segments have no write; None: every one has some.

        Found once for calls between two seals or cuts.
        """
        if blocks == 1 or not number:
            return None
        name = ("empty", self._layout, block, blocks)
        found = self._known.get(name)
        if found is None or found[0] != number:
            found = self._known[name] = (number, self._find_empty(number, block, blocks))
        return found[1]

    def _find_empty(self, number: int, block: int, blocks: int) -> np.ndarray | None:
        if not self._anchors and not (self.phase >= block).any():
            return None
        size = np.full((len(self.phase), number), self.full)
        for row, anchors in zip(size, self._anchors, strict=False):
            write, first = anchors[:, : np.searchsorted(anchors[1], number, "right")]
            opens = np.repeat(write - first * self.full, np.diff(first, append=number + 1)) + np.arange(number + 1) * self.full
            row[:] = np.diff(opens)
        place = np.arange(blocks) * block
        none = place >= size[..., None]
        none[:, 0] |= place + block <= self.phase[:, None]
        return none if none.any() else None
