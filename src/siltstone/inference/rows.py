"""The rows of a batch: the states of many sessions in one, each in a slot of its own, which take a token together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.lm import LM
from ..models.stream_state import LMState
from ..schedule.packed import RowPositions
from ..state.paged import Pools
from .runtime import Runtime

LEAST, TIMES = 1, 4  # buckets have 1, 4, 16, 64, ... rows


def bucket(rows: int) -> int:
    """Rows of the program that serves so many: 1, 4, 16, 64, ..."""
    size = LEAST
    while size < rows:
        size *= TIMES
    return size


class Rows:
    """One state of `size` rows; a row without a session is inactive in every step."""

    def __init__(self, model: LM, runtime: Runtime, cuts: Tensor | None) -> None:
        self.model, self.runtime, self.cuts = model, runtime, cuts
        self.state: LMState | None = None
        self.pools = Pools()  # of checkpoints that steps pick: rows that come and go hold tables of pages
        self.live: set[int] = set()
        self._left: set[int] = set()  # slots whose sessions have left, with their rows still there
        self._ours = False  # nobody else holds the state's memory, and all of it is whole

    @property
    def size(self) -> int:
        """Rows, those without a session included."""
        return 0 if self.state is None else len(self.state)

    def arrange(self, entering: Mapping[int, Any], size: int) -> None:
        """From now on `size` rows, with these states of one row each in their slots; others keep theirs. If it fails, nothing
        has changed. Only the rows that enter are copied, unless the number of rows changes."""
        if not entering and not self._left and size == self.size:
            return
        parts = {slot: state.paged(self.pools, sparse=True) for slot, state in entering.items()}
        if size == 1 and parts:
            (self.state,) = parts.values()
        else:
            whole, blank = self.state, self.model.init_state(1).paged(self.pools, sparse=True)
            if whole is None or size != self.size or not self._ours:
                whole = self.model.init_state(size).paged(self.pools, sparse=True)
                parts = {slot: self.row(slot) for slot in self.live - entering.keys()} | parts
            else:
                parts = dict.fromkeys(self._left, blank) | parts
            self._ours = False  # until all is written
            self.state = whole.placed(np.array(list(parts), np.int64), list(parts.values()))
        self._ours = size > 1
        self._left.clear()
        self.live |= entering.keys()

    def step(self, tokens: Mapping[int, int]) -> Tensor:
        """Logits [size, vocab_size] after one token in each of these slots; those of other slots mean nothing."""
        assert self.state is not None
        slots = list(tokens)
        ids = np.zeros(self.size, np.int64)
        ids[slots] = [tokens[slot] for slot in slots]
        active = np.zeros(self.size, bool)
        active[slots] = True
        given = torch.from_numpy(ids)
        cut = None if self.cuts is None else self.cuts[given]
        flags = (torch.from_numpy(active), cut, None)
        logits, self.state = self.runtime.step(self.model, given.to(self.model.like.device), self.state, flags)
        return logits

    def row(self, slot: int) -> LMState:
        """A copy of one row, independent of later steps."""
        assert self.state is not None
        return self.state.select([slot])

    def drop(self, slot: int) -> None:
        """The slot's row is given up, if there is one; its memory is free as soon as rows are arranged again."""
        if slot in self.live:
            self.live.discard(slot)
            self._left.add(slot)
        if not self.live:
            self.state = None
            self._left.clear()


class Row:
    """The state of a session that stands in a slot, as a `StreamingState`."""

    def __init__(self, rows: Rows, slot: int) -> None:
        self._rows, self._slot = rows, slot

    @property
    def position(self) -> np.ndarray:
        """int64 [1]"""
        assert self._rows.state is not None
        return self._rows.state.position[self._slot : self._slot + 1]

    @property
    def positions(self) -> RowPositions:
        """Of the one row."""
        assert self._rows.state is not None
        return self._rows.state.positions.select([self._slot])

    def fork(self) -> LMState:
        """A copy outside the rows."""
        return self._rows.row(self._slot)

    def take(self) -> LMState:
        """The state itself; the slot is free."""
        state = self.fork()
        self._rows.drop(self._slot)
        return state

    @staticmethod
    def cat(states: Sequence[Row]) -> LMState:
        """See `LMState.cat`."""
        return LMState.cat([state.fork() for state in states])

    @property
    def nbytes(self) -> int:
        """Live bytes of this row."""
        return self.fork().nbytes

    def tensors(self) -> dict[str, Tensor]:
        """See `LMState.tensors`."""
        return self.fork().tensors()

    def meta(self) -> dict[str, Any]:
        """See `LMState.meta`."""
        return self.fork().meta()

    def parts(self) -> dict[str, int]:
        """See `LMState.parts`."""
        return self.fork().parts()
