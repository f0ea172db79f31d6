"""Padding and resets, resolved once at the entry of a model.

A *run* is a stretch of valid tokens of one row in one life of that row. Padding is dropped and each reset begins a new run,
so layers see only runs: left-aligned, independent, each with its own position.
Positions are on the host (numpy): scheduling a call does not wait for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..core.given import replaced, row_numbers
from ..errors import InputError
from ..ops.transforms import at_work, batched
from ..state.tree import State
from .segments import Cuts

S = TypeVar("S", bound=State)
NEVER = (1 << 62) - 1  # no row has read so many tokens


@dataclass(frozen=True)
class RowPositions:
    """Positions of the rows: `position`, tokens of the row's life so far; `phase`, writes by which its first segment is shorter.

    cuts   where each row's life was cut, () unless segments end by content
    asking  int64 [B], the position from which each row chooses blocks before every token (cache="blocks"), NEVER: none; None: no
           row does
    known  results that follow from phases and cuts alone, by name; positions of later tokens share them until the next cut
    """

    position: np.ndarray
    phase: np.ndarray
    cuts: tuple[Cuts, ...] = ()
    asking: np.ndarray | None = None
    known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def start(cls, batch: int, phase: Any = None, content: bool = False) -> RowPositions:
        """Rows at position 0."""
        zero = np.zeros(batch, np.int64)
        phase = zero.copy() if phase is None else np.asarray(phase, np.int64).reshape(batch).copy()
        return cls(zero, phase, (Cuts(),) * batch if content else ())

    def select(self, rows: Any) -> RowPositions:
        """The given rows, as in `State.select`."""
        index = row_numbers(rows, len(self.position))
        cuts = tuple(self.cuts[i] for i in index) if self.cuts else ()
        return RowPositions(self.position[index], self.phase[index], cuts, None if self.asking is None else self.asking[index])

    def begun(self, rows: np.ndarray) -> RowPositions:
        """With the rows bool [B] at position 0."""
        cuts = tuple(Cuts() if new else c for c, new in zip(self.cuts, rows, strict=True)) if self.cuts else ()
        asking = None if self.asking is None else np.where(rows, NEVER, self.asking)
        return RowPositions(np.where(rows, 0, self.position), self.phase, cuts, asking)

    def asks(self, rows: np.ndarray, since: np.ndarray | None = None) -> RowPositions:
        """With the rows bool [B] choosing blocks before every token, and the others as always.

        since   int64 [B], the position from which they do (None, or one before the row's: from their next token on)
        """
        begin = self.position if since is None else np.maximum(self.position, since)
        return replace(self, asking=np.where(rows, begin, NEVER) if rows.any() else None)

    def from_here(self) -> np.ndarray:
        """bool [B]: the rows that choose blocks before every token, their next one included."""
        return np.zeros(len(self.position), bool) if self.asking is None else self.position >= self.asking

    def cut(self, rows: np.ndarray) -> RowPositions:
        """With a cut at the next token of the rows bool [B]."""
        each = zip(self.cuts, self.position, rows, strict=True)
        cuts = tuple(c.add(np.array([p])) if now else c for c, p, now in each)
        return RowPositions(self.position, self.phase, cuts, self.asking)

    def moved(self, rows: np.ndarray) -> RowPositions:
        """After one token of the rows bool [B]."""
        return replace(self, position=self.position + rows)

    def placed(self, rows: np.ndarray, parts: Sequence[RowPositions]) -> RowPositions:
        """With the rows of `parts`, one after the other, in place of the rows int64 [n]."""
        return RowPositions.cat([self, *parts]).select(replaced(len(self.position), rows))

    @staticmethod
    def cat(several: Sequence[RowPositions]) -> RowPositions:
        """Rows of several RowPositions, one after the other."""
        position, phase = (np.concatenate([getattr(c, name) for c in several]) for name in ("position", "phase"))
        asking = None
        if any(c.asking is not None for c in several):
            asking = np.concatenate([np.full(len(c.position), NEVER) if c.asking is None else c.asking for c in several])
        return RowPositions(position, phase, tuple(cut for c in several for cut in c.cuts), asking)


@dataclass(frozen=True)
class PackedBatch:
    """The runs of one call, and the conversion from rows to runs and back.

    row        [R] the row that each run belongs to
    fresh      [R] the run begins a new life: it ignores the state before it
    positions  of each run before its first token, and its cuts, those of this call included
    length     [R] tokens of each run
    take       [R, T'] position in the flattened [B*T] of each run's tokens; None: runs are whole rows
    last       [B] the last run of each row, -1 if a row has no token
    shape      (B, T) of the call
    """

    row: np.ndarray
    fresh: np.ndarray
    positions: RowPositions
    length: np.ndarray
    take: np.ndarray | None
    last: np.ndarray
    shape: tuple[int, int]

    @property
    def width(self) -> int:
        """Tokens of the longest run."""
        return self.shape[1] if self.take is None else self.take.shape[1]

    def gather(self, x: Tensor) -> Tensor:
        """[B, T, ...] -> [R, T', ...]; slots beyond a run's length hold an arbitrary token of the call."""
        if self.take is None:
            return x
        index = torch.from_numpy(self.take).to(x.device)
        return x.flatten(0, 1)[index]

    def scatter(self, y: Tensor) -> Tensor:
        """[R, T', ...] -> [B, T, ...]; zeros at padding."""
        if self.take is None:
            return y
        valid = np.arange(self.width)[None] < self.length[:, None]
        out = y.new_zeros((self.shape[0] * self.shape[1], *y.shape[2:]))
        to = torch.from_numpy(self.take[valid]).to(y.device)
        source = torch.from_numpy(np.flatnonzero(valid)).to(y.device)
        return out.index_copy(0, to, y.flatten(0, 1).index_select(0, source)).unflatten(0, self.shape)

    def enter(self, state: State, empty: Any) -> State:
        """Rows' states -> runs' states; `empty(n)` makes the state of n rows that begin."""
        if self.take is None:
            return state
        rows = len(self.last)
        both = type(state).cat([state, empty(1)])
        return both.select(np.where(self.fresh, rows, self.row))

    def leave(self, before: S, after: S) -> S:
        """Runs' states after the call -> rows' states; rows without a token keep theirs."""
        if self.take is None:
            return after
        rows = len(self.last)
        both = type(after).cat([before, after])
        return both.select(np.where(self.last >= 0, rows + self.last, np.arange(rows)))

    def positions_after(self, before: RowPositions) -> RowPositions:
        """The positions of the rows after the call."""
        end = self.positions.position + self.length
        position = before.position.copy()
        moved = self.last >= 0
        position[moved] = end[self.last[moved]]
        cuts = self.positions.cuts
        if self.take is None:
            return RowPositions(position, before.phase, cuts, before.asking, self.positions.known)
        cuts = tuple(c if r < 0 else cuts[r] for c, r in zip(before.cuts, self.last, strict=True)) if before.cuts else ()
        asking = before.asking
        if asking is not None:
            again = np.array([r >= 0 and self.fresh[r] for r in self.last], bool)
            asking = np.where(again, NEVER, asking)
        return RowPositions(position, before.phase, cuts, asking)


def pack_batch(
    shape: tuple[int, int], positions: RowPositions, mask: Tensor | None, reset: Tensor | None, cut: Tensor | None = None
) -> PackedBatch:
    """Split a call into runs."""
    rows, tokens = shape
    valid, begins, ends = host_flags("mask", mask, shape), host_flags("reset", reset, shape), host_flags("cut", cut, shape)
    if ends is not None and not ends.any():
        ends = None
    if valid is not None and valid.all():
        valid = None
    if begins is not None and not (begins & valid if valid is not None else begins).any():
        begins = None
    every = np.arange(rows)
    if valid is None and begins is None:
        length = np.full(rows, tokens, np.int64)
        if ends is not None:
            added = zip(positions.cuts, positions.position, ends, strict=True)
            cuts = tuple(c.add(p + np.flatnonzero(e)) for c, p, e in added)
            positions = RowPositions(positions.position, positions.phase, cuts, positions.asking)
        return PackedBatch(every, np.zeros(rows, bool), positions, length, None, every if tokens else np.full(rows, -1), shape)
    valid = np.ones(shape, bool) if valid is None else valid
    row, fresh, segment_chunks = [], [], []
    last = np.full(rows, -1)
    for b in range(rows):
        at = np.flatnonzero(valid[b])
        if not len(at):
            continue
        cuts = np.flatnonzero(begins[b][at]) if begins is not None else np.zeros(0, np.int64)
        born = len(cuts) > 0 and cuts[0] == 0
        for i, segment_chunk in enumerate(np.split(at, cuts[cuts > 0])):
            row.append(b)
            fresh.append(born or i > 0)
            segment_chunks.append(b * tokens + segment_chunk)
        last[b] = len(row) - 1
    length = np.array([len(p) for p in segment_chunks], np.int64)
    width = int(length.max(initial=0))
    take = np.zeros((len(segment_chunks), width), np.int64)
    for r, segment_chunk in enumerate(segment_chunks):
        take[r, : len(segment_chunk)] = segment_chunk
        take[r, len(segment_chunk) :] = segment_chunk[-1]
    row_, fresh_ = np.array(row, np.int64), np.array(fresh, bool)
    position, known = np.where(fresh_, 0, positions.position[row_]), ()
    if positions.cuts:
        known = tuple(Cuts() if new else positions.cuts[b] for b, new in zip(row, fresh, strict=True))
    if ends is not None:
        flags = (ends.reshape(-1)[segment_chunk] for segment_chunk in segment_chunks)
        known = tuple(c.add(p + np.flatnonzero(e)) for c, p, e in zip(known, position, flags, strict=True))
    asking = None if positions.asking is None else np.where(fresh_, NEVER, positions.asking[row_])
    start = RowPositions(position, positions.phase[row_], known, asking)
    return PackedBatch(row_, fresh_, start, length, take, last, shape)


def host_flags(name: str, flag: Tensor | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """A bool tensor on the host, or None if it is not given. Raises InputError for anything else."""
    if flag is None:
        return None
    if not isinstance(flag, Tensor) or flag.dtype != torch.bool or tuple(flag.shape) != shape:
        given = f"{flag.dtype} {tuple(flag.shape)}" if isinstance(flag, Tensor) else type(flag).__name__
        raise InputError(f"{name} must be a bool tensor of shape {shape}, but {given} was given")
    if batched(flag):
        raise InputError(f"{name} must be the same for all entries of a vmap, because it sets the schedule; leave it out there")
    return np.array(flag.tolist(), bool).reshape(shape) if at_work() else flag.cpu().numpy()
