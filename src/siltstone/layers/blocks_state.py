"""The state of a layer with cache="blocks"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from ..schedule.blocks import Law
from ..schedule.packed import RowPositions
from ..state.tree import Store
from .state import MixState


@dataclass
class BlocksState(MixState):
    """cache: key [B, N, J, K] (not rotated) and value [B, N, J, V] of every token; means [B, M, J, K]: the routing keys;
    recent [B, queries, H, K]: a ring of the last queries; chosen int64 [B, J, most]: the blocks of the online group, in order;
    conv [B, width - 1, D]."""

    narrow: ClassVar[tuple[str, ...]] = ("cache", "means", "recent", "conv")
    fixed: ClassVar[tuple[str, ...]] = ("chosen",)

    cache: Store
    means: Store
    recent: Tensor
    chosen: Tensor
    conv: Tensor | None = None

    def parts(self) -> dict[str, int]:
        """See MixState."""
        held = {"checkpoints": self.cache.nbytes, "routing": self.means.nbytes + self.recent.nbytes + self.chosen.nbytes}
        return held | {"window": self.nbytes - sum(held.values())}

    def roomy(self, mixer: Any) -> Self:
        """See MixState."""
        cache, means = self.cache.roomy(), self.means.roomy()
        same = cache is self.cache and means is self.means
        return self if same else replace(self, cache=cache, means=means)

    @property
    def room(self) -> int:
        """See MixState."""
        return self.cache.room

    def sized(self, mixer: Any, positions: RowPositions) -> Self:
        """See MixState."""
        parts = mixer.law.parts(positions.position)
        return replace(self, cache=self.cache.sized(positions.position), means=self.means.sized(parts))

    def may_fit(self, mixer: Any, positions: RowPositions, cuts: int) -> bool:
        """See MixState."""
        parts = mixer.law.parts(positions.position)
        return bool((self.cache.count == positions.position).all() and (self.means.count == parts).all())

    def fits(self, mixer: Any, positions: RowPositions) -> bool:
        """See MixState."""
        law: Law = mixer.law
        if not self.may_fit(mixer, positions, 0):
            return False
        sealed = law.sealed(law.group(np.maximum(positions.position - 1, 0)))
        chosen, count = self.chosen.cpu().numpy(), np.minimum(sealed, law.most)[:, None, None]
        used = np.arange(law.most) < count
        ordered = (np.diff(chosen, axis=2) > 0) | ~used[..., 1:]
        return bool((~used | (chosen >= 0) & (chosen < sealed[:, None, None])).all() and ordered.all())
