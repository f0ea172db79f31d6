"""What the layers share while each row takes one token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops import rope
from ..schedule.step import Turn, keep


class StepContext:
    """position int64 [B], of the tokens; active bool [B], rows that get one (None: all); `turns` by timing.

    inplace: rings, and what else has room, may be updated in place. at: the position of all rows, if the host says it.
    """

    def __init__(
        self,
        position: Tensor,
        active: Tensor | None,
        turns: Mapping[tuple[Any, ...], Turn],
        dtype: torch.dtype,
        inplace: bool,
        longest: int | None = None,
        at: int | None = None,
    ):
        self.position, self.active, self.turns, self.dtype, self.inplace = position, active, turns, dtype, inplace
        self.longest = longest  # tokens of the longest row, this one included; None: as many as there is room for
        self.at = at if inplace else None
        self.rows = torch.arange(len(position), device=position.device)
        self.lead: Any = None  # the routing (a `Lead`) of the layer whose routing later layers share
        self._rotations: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        self._slots: dict[int, Tensor] = {}

    def slot(self, ring: int) -> Tensor:
        """int64 [B], the slots of the tokens in a ring of so many."""
        if ring not in self._slots:
            self._slots[ring] = self.position % ring
        return self._slots[ring]

    def turned(self, name: Any, places: Tensor, width: int, dtype: torch.dtype, base: rope.Base) -> tuple[Tensor, Tensor]:
        """`rope.turned`, computed once for all layers that call their places by the same name."""
        key = (name, width, dtype, base)
        if key not in self._rotations:
            self._rotations[key] = rope.turned(places, width, dtype, base)
        return self._rotations[key]

    def rotation(self, width: int, base: rope.Base, limit: int | None = None, rest: bool = False) -> tuple[Tensor, Tensor]:
        """Rotation [B, 1, width] of the tokens' positions, of these up to `limit`, or of the `rest` beyond it."""
        key = (width, base, limit, rest)
        if key not in self._rotations:
            at = self.position if limit is None else self.position.clamp(max=limit)
            at = self.position - at if rest else at
            self._rotations[key] = rope.turned(at.unsqueeze(-1), width, self.dtype, base)
        return self._rotations[key]


def put(ring: Tensor, token: Tensor, context: StepContext) -> Tensor:
    """The ring [B, E, ...] with the token [B, 1, ...] of each row that is active."""
    if context.at is not None:
        ring.narrow(1, context.at % ring.shape[1], 1).copy_(token)
        return ring
    value = token[:, 0].to(ring.dtype)
    at = (context.rows, context.slot(ring.shape[1]))
    if context.active is not None:
        value = keep(context.active, value, ring[at])
    return ring.index_put_(at, value) if context.inplace else ring.index_put(at, value)
