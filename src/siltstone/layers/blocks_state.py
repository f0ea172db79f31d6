"""The state of a layer with cache="blocks"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..schedule.blocks import Law, spans
from ..schedule.packed import RowPositions
from ..state.chunked import ChunkedStore
from ..state.entries import Entries
from ..state.paged import PagedStore, Pool, Pools
from ..state.spilled import Spill, SpilledStore
from ..state.tree import Store
from .state import MixState


@dataclass
class BlocksState(MixState):
    """kept, means, tally: the sealed blocks, see `blocks_kept`; with a budget those that are held.
    sinks [B, sinks, J, ...]: keys and values; near [B, near, J, ...]: rings of those of the last tokens; keys are not rotated.
    far [B, J, most * block, ...]: keys and values of the chosen blocks, as the online group reads them: rotated to their places.
    recent [B, queries, H, K]: a ring of the last queries; chosen int64 [B, J, most]: the places of the online group's blocks,
    in order; conv [B, width - 1, D]."""

    narrow: ClassVar[tuple[str, ...]] = ("recent", "sinks", "near", "far", "conv")
    fixed: ClassVar[tuple[str, ...]] = ("tally", "chosen")
    rings: ClassVar[tuple[str, ...]] = ("near", "far", "recent")
    apart: ClassVar[tuple[str, ...]] = ("kept", "means", "tally")

    kept: Entries
    means: Store
    tally: Store | None
    sinks: tuple[Tensor, ...]
    near: tuple[Tensor, ...]
    far: tuple[Tensor, ...]
    recent: Tensor
    chosen: Tensor
    conv: Tensor | None = None

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """See State; blocks that are not rounded have the model's dtype, and the scales of rounded ones float32 or wider."""
        found = super().to(device, dtype)
        if any(x.dtype == torch.int8 for x in self.means.leaves):
            return found
        return replace(found, kept=self.kept.to(device, dtype, True), means=self.means.to(device, dtype, True))

    @property
    def in_pages(self) -> bool:
        """See MixState."""
        return self.kept.in_pages

    def paged(self, pools: Pool | Pools, cfg: LayerConfig, positions: RowPositions) -> Self:
        """See MixState. With a budget, blocks change their places, and stay in plain tensors."""
        if cfg.bounded:
            return self
        number = np.broadcast_to(np.arange(self.kept.width), (self.kept.rows, self.kept.width))
        return replace(self, kept=PagedStore.of(pools.of(self.kept), self.kept, spans(cfg.sinks, cfg.segment, number)))

    def parts(self) -> dict[str, int]:
        """See MixState."""
        routing = (self.means, self.tally, self.recent, self.chosen)
        held = {"checkpoints": self.kept.nbytes, "routing": sum(x.nbytes for x in routing if x is not None)}
        return held | {"window": self.nbytes - sum(held.values())}

    def read(self, mixer: Any, cfg: LayerConfig, position: int) -> tuple[float, float]:
        """See MixState: sinks, chosen blocks and near tokens, and the token's share of a choice once in `route_every` tokens."""
        law, queries = mixer.law, cfg.heads / cfg.key_heads
        sealed = int(law.sealed(np.int64(law.group(position))))
        near = max(0, position - law.sinks - sealed * law.block)
        held, rows = int(law.held(np.int64(sealed))), len(self.recent)
        seen = min(position, law.sinks) + min(held, law.most) * law.block + near
        tokens = seen * sum(x.nbytes for x in self.near) / max(1, law.near * rows)
        keys = held * sum(x.nbytes / max(1, x.shape[axis]) for x, axis in zip(self.means.leaves, self.means.axes, strict=True))
        keys /= law.every * rows
        rest = (self.recent.nbytes + self.chosen.nbytes) / law.every + (0 if self.conv is None else self.conv.nbytes)
        return tokens + keys + rest, queries * (tokens + keys * law.queries) + rest

    def chunked(self, cfg: LayerConfig) -> Self:
        """See MixState. With a budget, blocks change their places, and stay in plain tensors."""
        return self if cfg.bounded or self.kept.in_pages else replace(self, kept=ChunkedStore.of(self.kept))

    def spilled(self, spill: Spill) -> Self:
        """See MixState."""
        return self if isinstance(self.kept, SpilledStore) else replace(self, kept=SpilledStore.of(spill, self.kept))

    def sized(self, mixer: Any, positions: RowPositions) -> Self:
        """See MixState."""
        law: Law = mixer.law
        sealed = law.offered(positions.position)
        count, tally = law.held(sealed), self.tally
        if tally is not None:
            number, *rest = tally.sized(count).leaves
            number = torch.from_numpy((sealed - count)[:, None] + np.arange(number.shape[1])).to(number)
            tally = Store((number, *rest), tally.axes, count)
        return replace(self, kept=self.kept.sized(count), means=self.means.sized(count), tally=tally)

    def numbers(self, law: Law, row: int, tokens: int) -> np.ndarray:
        """int64 [places], the blocks that a row which has read `tokens` tokens holds."""
        if self.tally is not None:
            return self.tally.views()[0][row, : int(self.tally.count[row])].cpu().numpy()
        sealed = int(law.offered(np.int64(tokens)))
        return np.arange(sealed - int(law.held(np.int64(sealed))), sealed)

    def may_fit(self, mixer: Any, positions: RowPositions, cuts: int) -> bool:
        """See MixState."""
        held = mixer.law.held(mixer.law.offered(positions.position))
        return all(bool((x.count == held).all()) for x in (self.kept, self.means, self.tally) if x is not None)

    def fits(self, mixer: Any, positions: RowPositions) -> bool:
        """See MixState."""
        law: Law = mixer.law
        if not self.may_fit(mixer, positions, 0):
            return False
        sealed = law.offered(positions.position)
        held = law.held(sealed)
        if self.tally is not None and not self._counted(sealed):
            return False
        chosen, count = self.chosen.cpu().numpy(), np.minimum(held, law.most)[:, None, None]
        used = np.arange(law.most) < count
        ordered = (np.diff(chosen, axis=2) > 0) | ~used[..., 1:]
        return bool((~used | (chosen >= 0) & (chosen < held[:, None, None])).all() and ordered.all())

    def _counted(self, sealed: np.ndarray) -> bool:
        """Whether the tally has sealed blocks in ascending order, and no negative sums."""
        assert self.tally is not None
        number, used, asked = (x.cpu().numpy() for x in self.tally.views())
        there = np.arange(number.shape[1]) < self.tally.count[:, None]
        ascending = (np.diff(number, axis=1) > 0) | ~there[:, 1:]
        sane = (number >= 0) & (number < sealed[:, None]) & (used >= 0) & (asked >= 0)
        return bool((sane | ~there).all() and ascending.all())
