"""The interface of layer states."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from ..config.layer import LayerConfig
from ..schedule.packed import RowPositions
from ..state.paged import Pool, Pools
from ..state.spilled import Spill
from ..state.tree import State


class MixState(State):
    """The state of a layer that mixes tokens. Arguments: `mixer`, the layer's module; `positions`, the positions of its rows.

    apart   fields that the tensors of a step do not depend on: the host alone reads and changes them, between steps
    """

    apart: ClassVar[tuple[str, ...]] = ()

    def parts(self) -> dict[str, int]:
        """Live bytes of each part, with the names of `LMState.parts`."""
        return {"window": self.nbytes}

    def read(self, mixer: Any, cfg: LayerConfig, position: int) -> tuple[float, float]:
        """What a token at `position` reads: bytes, and bytes times the queries that read them."""
        return self.nbytes, self.nbytes * cfg.heads / cfg.key_heads

    def checkpoints(self) -> np.ndarray | None:
        """int64 [B], the places for sealed states; None: the layer keeps none."""
        return None

    def open_axis(self, name: str) -> int | None:
        """The axis of a tensor leaf whose length depends on what was read; None: it has none."""
        return None

    def reserved(self, active: np.ndarray) -> Self:
        """With room for one more token in the rows that are `active`, bool [B]."""
        return self

    def roomy(self, mixer: Any) -> Self:
        """The same in tensors of one of few sizes: what a compiled step takes."""
        return self

    @property
    def room(self) -> int:
        """The size of what grows, in places."""
        return 0

    @property
    def in_pages(self) -> bool:
        """Whether sealed states are pages of a pool."""
        return False

    def paged(self, pools: Pool | Pools, cfg: LayerConfig, positions: RowPositions) -> Self:
        """With the sealed states of rows at these positions as pages of pools."""
        return self

    def chunked(self, cfg: LayerConfig) -> Self:
        """With the blocks in chunks that grow without copies; the same object if it has none."""
        return self

    def spilled(self, spill: Spill) -> Self:
        """With the blocks in a page file; the same object if it has none."""
        return self

    def sized(self, mixer: Any, positions: RowPositions) -> Self:
        """With the places of rows at these positions; the content of new places is undefined."""
        return self

    def fits(self, mixer: Any, positions: RowPositions) -> bool:
        """Whether a loaded state has the content of rows at these positions."""
        return True

    def may_fit(self, mixer: Any, positions: RowPositions, cuts: int) -> bool:
        """`fits` checked by shapes alone, for rows with this number of cuts: it holds no more than they can have."""
        return self.fits(mixer, positions)
