"""What a bank is: the sealed states of some rows, and which of them are kept. A kind of segment is a bank with a `name`.

The layer drives the bank through the segment chunks of a call, in order:

    bank = bank.begin(call)
    for j in range(segment_chunks):
        view = bank.view(call, j)        what the queries of segment chunk j see; the layer computes gates from it, `mix`
        bank = bank.append(call, j, mix) the segment that ends with it is sealed
    bank = bank.end(call)

A bank is a value: these give a new one. One token that seals nothing takes `step` for each write, then `now`, then `used`.
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
from ..schedule.segments import Segments
from ..schedule.step import Turn
from ..state.tree import State
from .sealing import Sealed, Sealer, Sealing
from .view import View

Spans = list[tuple[int, int]]


class Bank(State, ABC):
    """The sealed states of some rows. `select`, `cat`, `fork`, `to`, `leaves` and `nbytes` are those of every state.

    name     the value of the key `segments` whose bank it is; without one it is no kind of segment
    cuts     segments end where the caller cuts, too
    grows    the bank grows in proportion to the text
    growth   how it grows, in words; {segment} are the tokens of a segment
    tells    leaves, int64 [B, ...], that say which segments are held, where the number of segments does not
    """

    name: ClassVar[str]
    cuts: ClassVar[bool] = False
    grows: ClassVar[bool] = True
    growth: ClassVar[str] = "O(t/C): one checkpoint every C = {segment} tokens"
    tells: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, cfg: LayerConfig) -> None:
        """Raise ConfigError where this kind of segment cannot work with the layer's other keys."""

    @classmethod
    def lengths(cls, full: int) -> Sequence[int]:
        """The writes of a row's first segments, each from 1 to `full`; all later ones have `full`. Not together with `cuts`."""
        return ()

    @classmethod
    @abstractmethod
    def empty(cls, memory: Memory, batch: int, routing: tuple[int, int] | None) -> Self:
        """No checkpoints. routing: (J, U) of the sums of routing keys that are kept with each, or None."""

    @property
    @abstractmethod
    def places(self) -> np.ndarray:
        """int64 [B], the places for checkpoints that each row keeps."""

    @abstractmethod
    def sized(self, sealed: np.ndarray, budget: int) -> Self:
        """With the places of rows that have sealed so many segments [B]; what new ones hold is not said."""

    @abstractmethod
    def begin(self, call: Sealing) -> Self:
        """The bank before the call's first segment chunk; what is sealed before it is sealed."""

    @abstractmethod
    def view(self, call: Sealing, j: int) -> View:
        """What the queries of segment chunk j see."""

    def whole(self, call: Sealing) -> View | None:
        """One view for all segment chunks, each of which sees the first so many checkpoints of it; None: this bank has none."""
        return None

    @abstractmethod
    def append(self, call: Sealing, j: int, mix: ReadWeights | None) -> Self:
        """After segment chunk j, which was read under `mix` (None: there was nothing to see): what ends with it is sealed."""

    @abstractmethod
    def end(self, call: Sealing) -> Self:
        """The bank after the call."""

    @abstractmethod
    def now(self, router: Router | None, number: int, segments: Segments) -> View:
        """What rows that have all sealed `number` segments see."""

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
        """After queries were answered under `mix`; asked bool [R, Q], which of them count (None: all of `queries`)."""
        return self

    def open_axis(self, name: str) -> int | None:
        """The axis along which a tensor leaf of this name has places; None: it has none."""
        return None

    @abstractmethod
    def fits(self, sealed: np.ndarray, budget: int) -> bool:
        """Whether a loaded bank holds what rows that have sealed so many segments [B] hold."""

    @abstractmethod
    def may_fit(self, sealed: np.ndarray, budget: int) -> bool:
        """`fits` as far as shapes say it, for rows that have sealed at most so many segments [B]."""

    @classmethod
    def spans(cls, number: int, told: Mapping[str, Sequence[int]]) -> Spans:
        """Segments [first, end) that each live checkpoint covers after `number` segments, oldest first.

        told: a row's numbers of each leaf in `tells`.
        """
        return [(n, n + 1) for n in range(number)]
