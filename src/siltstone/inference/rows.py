"""The rows of a batch: the states of many sessions in one, each in a slot of its own, which take a token together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.lm import LM
from ..models.stream_state import LMState
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

    @property
    def size(self) -> int:
        """Rows, those without a session included."""
        return 0 if self.state is None else len(self.state)

    def arrange(self, entering: Mapping[int, Any], size: int) -> None:
        """From now on `size` rows, with these states of one row each in their slots; others keep theirs. If it fails, nothing
        has changed."""
        if not entering and size == self.size:
            return
        stay = [slot for slot in sorted(self.live) if slot not in entering]
        parts, rows = ([self.state] if stay and self.state is not None else []), {slot: slot for slot in stay}
        behind = self.size if parts else 0
        for slot, state in entering.items():
            rows[slot] = behind
            parts.append(state.paged(self.pools, sparse=True))
            behind += 1
        if len(rows) < size:
            parts.append(self.model.init_state(1).paged(self.pools, sparse=True))
        index = [rows.get(slot, behind) for slot in range(size)]
        whole = LMState.cat(parts)
        self.state = whole if index == list(range(len(whole))) else whole.select(index)
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
        """The slot's row is given up; its memory is free as soon as rows are arranged again."""
        self.live.discard(slot)
        if not self.live:
            self.state = None


class Row:
    """The state of a session that stands in a slot, as a `StreamingState`."""

    def __init__(self, rows: Rows, slot: int) -> None:
        self._rows, self._slot = rows, slot

    @property
    def position(self) -> np.ndarray:
        """int64 [1]"""
        assert self._rows.state is not None
        return self._rows.state.position[self._slot : self._slot + 1]

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
