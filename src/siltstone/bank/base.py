"""The interface of banks. A bank holds the sealed states of some rows and decides which are kept; a bank with a `name` is a kind
of segment.

The layer calls the bank for the segment chunks of a call, in order:

    bank = bank.begin(call)
    for j in range(segment_chunks):
        view = bank.view(call, j)        what the queries of segment chunk j see; the layer computes gates from it, `mix`
        bank = bank.append(call, j, mix) the segment that ends with segment chunk j is sealed
    bank = bank.end(call)

A bank is a value: these methods return a new one. A step calls `seal` for the rows that seal, `step` for each write, then
`rows_view`, then `used`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from ..cache.base import ReadWeights, Router
from ..config.layer import LayerConfig
from ..memory.base import Inputs, Memory
from ..schedule.packed import RowPositions
from ..schedule.step import Turn
from ..state.paged import Pool, Pools
from ..state.tree import State
from .sealing import Sealed, Sealer, Sealing
from .view import View

Spans = list[tuple[int, int]]


class Bank(State, ABC):
    """The sealed states of some rows. `select`, `cat`, `fork`, `to`, `leaves` and `nbytes` work as in every state.

    name     the value of the key `segments` that selects this bank; a bank without a name is not a kind of segment
    cuts     segments also end where the caller cuts
    grows    the bank grows in proportion to the text
    growth   how it grows, in words; {segment} is replaced by the tokens of a segment
    asks_empty  `rows_view` needs to be told which sub-blocks are empty
    tells    leaves, int64 [B, ...], that say which segments are held, if the number of segments alone does not
    """

    name: ClassVar[str]
    cuts: ClassVar[bool] = False
    grows: ClassVar[bool] = True
    growth: ClassVar[str] = "O(t/C): one checkpoint every C = {segment} tokens"
    tells: ClassVar[tuple[str, ...]] = ()
    asks_empty: ClassVar[bool] = False

    @classmethod
    def check(cls, cfg: LayerConfig) -> None:
        """Raise ConfigError if this kind of segment cannot work with the layer's other keys."""

    @classmethod
    def lengths(cls, full: int) -> Sequence[int]:
        """Writes of each of a row's first segments, from 1 to `full`; all later ones have `full`. Excludes `cuts`."""
        return ()

    @classmethod
    @abstractmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Self:
        """No checkpoints. routing: (J, U) of the sums of routing keys that are kept with each, or None."""

    @property
    @abstractmethod
    def places(self) -> np.ndarray:
        """int64 [B], the places for checkpoints of each row."""

    @property
    def in_pages(self) -> bool:
        """Whether the checkpoints are pages of a pool."""
        return False

    def paged(self, pools: Pool | Pools, cfg: LayerConfig, positions: RowPositions) -> Self:
        """With the checkpoints of rows at these positions as pages. A bank with a fixed number of places stays as it is."""
        return self

    @abstractmethod
    def sized(self, sealed: np.ndarray, budget: int) -> Self:
        """With the places of rows that have sealed these numbers of segments [B]; the content of new places is undefined."""

    @abstractmethod
    def roomy(self, budget: int) -> Self:
        """The same checkpoints in tensors of one of few sizes, with room for one more: what a compiled step takes."""

    @property
    @abstractmethod
    def room(self) -> int:
        """Places that there is memory for."""

    @abstractmethod
    def begin(self, call: Sealing) -> Self:
        """The bank before the call's first segment chunk; states to be sealed before it are sealed."""

    @abstractmethod
    def view(self, call: Sealing, j: int) -> View:
        """What the queries of segment chunk j see."""

    def whole(self, call: Sealing) -> View | None:
        """One view for all segment chunks; chunk j sees the first `seen[:, j]` of its checkpoints. None: not supported."""
        return None

    @abstractmethod
    def append(self, call: Sealing, j: int, mix: ReadWeights | None) -> Self:
        """After segment chunk j, read with the weights `mix` (None: no checkpoints): seal the segment that ends with it."""

    @abstractmethod
    def end(self, call: Sealing) -> Self:
        """The bank after the call."""

    def step(self, memory: Memory, inputs: Inputs, begins: Tensor | None, wrote: Tensor | None) -> Self:
        """After one write, inputs [B, ...], into the online memory of the rows that `wrote`, bool [B] (None: all)."""
        return self

    @abstractmethod
    def rows_view(self, router: Router | None, turn: Turn, empty: Tensor | None) -> View:
        """What one token of each row sees; empty bool [B, N, J]: sub-blocks that no write fell into (None: there are none)."""

    @abstractmethod
    def seal(self, by: Sealer, sealed: Sealed) -> Self:
        """With one more segment in some rows."""

    def used(self, mix: ReadWeights | None, asked: Tensor | None, queries: int) -> Self:
        """After reads with the weights `mix`; asked bool [R, Q]: the queries that count (None: all of `queries`)."""
        return self

    def open_axis(self, name: str) -> int | None:
        """The axis along which the tensor leaf of this name has places; None: it has none."""
        return None

    @abstractmethod
    def fits(self, sealed: np.ndarray, budget: int) -> bool:
        """Whether a loaded bank is consistent with rows that have sealed these numbers of segments [B]."""

    @abstractmethod
    def may_fit(self, sealed: np.ndarray, budget: int) -> bool:
        """`fits` checked by shapes alone, for rows that have sealed at most these numbers of segments [B]."""

    @classmethod
    def spans(cls, number: int, told: Mapping[str, Sequence[int]]) -> Spans:
        """Segments [first, end) that each live checkpoint covers after `number` segments, oldest first.

        told: one row's values of each leaf in `tells`.
        """
        return [(n, n + 1) for n in range(number)]
