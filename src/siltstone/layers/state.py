"""What the state of any layer says of itself."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..schedule.packed import RowPositions
from ..state.tree import State


class MixState(State):
    """The state of a layer that mixes tokens. `mixer` below is the layer's module that made it, `clock` where its rows stand."""

    def parts(self) -> dict[str, int]:
        """Live bytes of each part, of those that `LMState.parts` names."""
        return {"window": self.nbytes}

    def checkpoints(self) -> np.ndarray | None:
        """int64 [B], the places for sealed states; None: such a layer keeps none."""
        return None

    def open_axis(self, name: str) -> int | None:
        """The axis of a tensor leaf whose length follows from what was read; None: it has none."""
        return None

    def reserved(self, active: np.ndarray) -> Self:
        """With room for one more token in the rows that are `active`, bool [B]."""
        return self

    def sized(self, mixer: Any, positions: RowPositions) -> Self:
        """With the places of rows at these positions; what new ones hold is not said."""
        return self

    def fits(self, mixer: Any, positions: RowPositions) -> bool:
        """Whether a loaded state holds as much as rows at these positions have."""
        return True

    def may_fit(self, mixer: Any, positions: RowPositions, cuts: int) -> bool:
        """`fits` as far as shapes say it, for rows that were cut so often: it holds no more than they may have."""
        return self.fits(mixer, positions)
