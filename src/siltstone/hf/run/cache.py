"""The cache of a model of ours in transformers: a state, which holds windows, memories and checkpoints of all layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from ...errors import InputError
from ...models.lm import LM
from ...models.stream_state import LMState


class SiltstoneCache(Cache):
    """The state of a batch after the columns read so far.

    state    the state; None before the first call. Calls may update it in place: give `state.fork()` to keep your own
    columns  columns of ids that were read, padding included

    A state of a memory cannot lose tokens. `crop` therefore goes back to a `mark` exactly, or raises InputError.
    """

    def __init__(self, state: LMState | None = None, columns: int = 0) -> None:
        super().__init__(layers=[])
        self.state, self.columns = state, columns
        self._marks: dict[int, LMState | None] = {}

    def advance(self, state: LMState, columns: int) -> None:
        """Sets the state after `columns` more columns."""
        self.state, self.columns = state, self.columns + columns

    def asks(self, lm: LM, since: Tensor) -> None:
        """Lets each row choose blocks before every token from a position on, int64 [B] without padding; before it at multiples of
        `route_every`."""
        self.state = (lm.init_state(len(since)) if self.state is None else self.state).asking(since=since.long())

    def mark(self) -> int:
        """Remembers this place, and returns its number of columns; sealed checkpoints are shared, not copied."""
        self._marks[self.columns] = None if self.state is None else self.state.fork()
        return self.columns

    def crop(self, tokens_to_remove: int) -> None:
        """Goes back by -tokens_to_remove columns, to a mark. Raises InputError if there is no mark at that place."""
        target = self.columns + tokens_to_remove
        if tokens_to_remove == 0:
            return
        if tokens_to_remove > 0 or target not in self._marks:
            places = ", ".join(map(str, sorted(self._marks))) or "none"
            raise InputError(
                f"crop({tokens_to_remove}) at {self.columns} columns: a memory cannot remove tokens, and goes back only to a "
                f"mark ({places}); call mark() at the place to return to"
            )
        state = self._marks[target]
        self.state, self.columns = None if state is None else state.fork(), target
        self._marks = {place: kept for place, kept in self._marks.items() if place <= target}

    def fork(self) -> SiltstoneCache:
        """An independent copy; sealed checkpoints are shared."""
        twin = SiltstoneCache(None if self.state is None else self.state.fork(), self.columns)
        twin._marks = {place: None if state is None else state.fork() for place, state in self._marks.items()}
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> SiltstoneCache:
        memo[id(self)] = twin = self.fork()
        return twin

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows, in this order."""
        rows = indices.tolist()
        if self.state is None or rows == list(range(len(self.state))):
            return
        self.state = self.state.select(rows)
        self._marks = {place: None if state is None else state.select(rows) for place, state in self._marks.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The rows of the beams that go on."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        if self.state is not None:
            self.batch_select_indices(torch.arange(len(self.state)).repeat_interleave(repeats))

    def reset(self) -> None:
        """As before the first call."""
        self.state, self.columns, self._marks = None, 0, {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read so far."""
        return self.columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: no limit."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns after a call of `query_length` columns, and 0."""
        return self.columns + query_length, 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether anything was read."""
        return self.columns > 0

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Raises InputError: layers of transformers have no place in this cache."""
        raise InputError("a SiltstoneCache is for models of Siltstone; give other models a cache of their own")

    def __len__(self) -> int:
        return 0 if self.state is None else len(self.state.layers)

    def __repr__(self) -> str:
        return f"SiltstoneCache(columns={self.columns}, batch_size={self.batch_size})"

    @property
    def batch_size(self) -> int:
        """Number of rows; -1 before the first call."""
        return -1 if self.state is None else len(self.state)

    @property
    def nbytes(self) -> int:
        """Live bytes of the state."""
        return 0 if self.state is None else self.state.nbytes

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return self.state is not None

    @property
    def is_croppable(self) -> bool:
        return False

    @property
    def is_sliding(self) -> list[bool]:
        return [False]

    @property
    def is_linear(self) -> list[bool]:
        """[False]: `generate` then passes only the columns that were not read."""
        return [False]

    @property
    def is_dummy(self) -> list[bool]:
        return [False]
