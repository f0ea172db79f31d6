"""Free pages of pools, filled with what no reader may see."""

from __future__ import annotations

import torch

from siltstone.state import Pools
from siltstone.state.pages import Pool


def poison(pools: Pool | Pools) -> None:
    """NaN (127 in codes) in every page without a holder."""
    for pool in [pools] if isinstance(pools, Pool) else pools:
        free = torch.from_numpy(pool.free.copy())
        for x, axis in zip(pool.leaves, pool.axes, strict=True):
            x.data.movedim(axis, 0)[free] = float("nan") if x.is_floating_point() else 127
