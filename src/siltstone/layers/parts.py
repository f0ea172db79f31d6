"""The state of a memory layer, and the protocol by which reads and writes access the layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ..bank.base import Bank
from ..cache.base import CachePolicy, Router
from ..cache.exact import Kept
from ..compress.base import Compress
from ..config.layer import LayerConfig
from ..memory.base import Memory
from ..schedule.call import Geometry
from ..schedule.packed import RowPositions
from ..state.paged import Pool, Pools
from ..state.tree import State
from .pairs import Pairs
from .state import MixState
from .window import WindowAttention, WindowState


@dataclass
class LayerState(MixState):
    """window: rings; input [B, delay + rate - 1, D]: tokens not yet written; online: the memory; bank: sealed states;
    summary [B, J, U]: sums of the online segment's routing keys, one per sub-block; conv [B, width - 1, D]: the inputs that the
    short convolution still needs; kept: writes that the window, or a read of their own, still sees."""

    narrow: ClassVar[tuple[str, ...]] = ("input", "conv")
    rings: ClassVar[tuple[str, ...]] = ("input",)

    window: WindowState | None
    input: Tensor
    online: State
    bank: Bank | None
    summary: Tensor | None
    conv: Tensor | None = None
    kept: Kept | None = None

    def parts(self) -> dict[str, int]:
        """See MixState; `checkpoints` are the bank and the kept writes."""
        out = {"memory": self.online.nbytes, "routing": 0 if self.summary is None else self.summary.nbytes}
        out["checkpoints"] = sum(0 if x is None else x.nbytes for x in (self.bank, self.kept))
        return out | {"window": self.nbytes - sum(out.values())}

    def read(self, mixer: Any, cfg: LayerConfig, position: int) -> tuple[float, float]:
        """See MixState; of the checkpoints of cache="sparse", the chosen ones and all routing keys."""
        parts, places = self.parts(), self.checkpoints()
        window, sealed = parts.pop("window"), parts.pop("checkpoints")
        if mixer.cache.sparse and places is not None and places[0]:
            keys = 4 * int(places[0]) * mixer.router.blocks * cfg.router_dim if mixer.router.leads else 0
            sealed = keys + (sealed - keys) * min(1.0, cfg.top_k / int(places[0]))
        rest = sum(parts.values()) + sealed
        return window + rest, window * cfg.heads / cfg.key_heads + rest

    def checkpoints(self) -> np.ndarray | None:
        """See MixState."""
        return None if self.bank is None else self.bank.places

    def open_axis(self, name: str) -> int | None:
        """See MixState."""
        return self.bank.open_axis(name.removeprefix("bank.")) if self.bank is not None and name.startswith("bank.") else None

    def roomy(self, mixer: Any) -> Self:
        """See MixState."""
        if self.in_pages and mixer.cache.sparse:  # a step takes what it picks out of the pages
            return self
        bank = None if self.bank is None else self.bank.roomy(mixer.budget)
        return self if bank is self.bank else replace(self, bank=bank)

    @property
    def room(self) -> int:
        """See MixState."""
        return 0 if self.bank is None else self.bank.room

    @property
    def in_pages(self) -> bool:
        """See MixState."""
        return self.bank is not None and self.bank.in_pages

    def paged(self, pools: Pool | Pools, cfg: LayerConfig, positions: RowPositions) -> Self:
        """See MixState."""
        return self if self.bank is None else replace(self, bank=self.bank.paged(pools, cfg, positions))

    def sized(self, mixer: Any, positions: RowPositions) -> Self:
        """See MixState."""
        return self if self.bank is None else replace(self, bank=self.bank.sized(mixer.geo.sealed(positions), mixer.budget))

    def fits(self, mixer: Any, positions: RowPositions) -> bool:
        """See MixState."""
        if self.kept is not None and not _ordered(self.kept, mixer.geo.written(positions.position) * mixer.cfg.group):
            return False
        return self.bank is None or self.bank.fits(mixer.geo.sealed(positions), mixer.budget)

    def may_fit(self, mixer: Any, positions: RowPositions, cuts: int) -> bool:
        """See MixState."""
        return self.bank is None or self.bank.may_fit(mixer.geo.sealed(positions) + cuts, mixer.budget)


def _ordered(kept: Kept, written: np.ndarray) -> bool:
    """Whether the expected number of the writes [B] is kept, in order."""
    number, nothing = kept.number.cpu().numpy(), (kept.surprise == -torch.inf).cpu().numpy()
    full = ((number >= 0) & (number < written[:, None])).sum(1) == np.minimum(written, number.shape[1])
    ordered = (number[:, :-1] < number[:, 1:]) | nothing[:, :-1]
    sane = nothing | ((kept.surprise >= 0) & kept.surprise.isfinite()).cpu().numpy()
    return bool(full.all() and ordered.all() and ((number < 0) == nothing).all() and sane.all())


class Parts(Protocol):
    """A memory layer as seen by its reads and writes."""

    cfg: LayerConfig
    geo: Geometry
    memory: Memory
    compress: Compress
    cache: CachePolicy
    router: Router | None
    window: WindowAttention | None
    pairs: Pairs | None
    budget: int
