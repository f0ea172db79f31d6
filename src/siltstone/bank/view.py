"""What the queries of a segment chunk see of a bank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..ops.pages import Pages, laid_out
from .codec import unpack


@dataclass
class View:
    """The checkpoints that the queries of one segment chunk see.

    held         packed matrices [R, H, N, in, out] of each read factor, or the pages that they are in; `leaves` are the matrices,
                 `factors` unpacks them
    summary      [R, N, J, U] mean routing keys of sub-blocks, or None
    empty        bool [R, N, J] sub-blocks without a write; None: every one has some
    hidden       bool [R, N], True for checkpoints that a row does not see; None: all rows see all
    sealed       [R] segments sealed so far (for all segment chunks: [R, S])
    last         [R, N] the last segment that each checkpoint covers; None: checkpoint n is segment n
    newest_last  checkpoints are in order of time
    seen         [R, S] how many checkpoints each segment chunk sees, in a view for all of them (`hidden` is None then)
    """

    held: tuple[Tensor, ...] | Pages
    summary: Tensor | None
    empty: Tensor | None
    hidden: Tensor | None
    sealed: np.ndarray | Tensor
    last: np.ndarray | Tensor | None = None
    newest_last: bool = True
    seen: np.ndarray | None = None
    _factors: tuple[Tensor, ...] | None = None

    @property
    def number(self) -> int:
        """N."""
        return self.held.number if isinstance(self.held, Pages) else self.held[0].shape[2]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """Packed matrices [R, H, N, in, out] of each read factor."""
        return laid_out(self.held)

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """Matrices [R, H, N, in, out] of each read factor."""
        if self._factors is None:
            self._factors = unpack(self.leaves)
        return self._factors

    def age(self) -> Tensor:
        """[R, 1, N] distances in segments from each checkpoint's last segment to the online one: 1 for the newest."""
        device = (self.held.table if isinstance(self.held, Pages) else self.held[0]).device
        last = np.arange(self.number)[None] if self.last is None else self.last
        if isinstance(self.sealed, Tensor):
            if isinstance(last, np.ndarray):
                last = torch.arange(self.number, device=device)
            return (self.sealed.unsqueeze(-1) - last).unsqueeze(1)
        sealed = torch.from_numpy(np.ascontiguousarray(self.sealed)).to(device).unsqueeze(-1)
        return (sealed - (torch.from_numpy(last).to(device) if isinstance(last, np.ndarray) else last)).unsqueeze(1)
