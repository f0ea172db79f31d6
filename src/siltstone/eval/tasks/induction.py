"""Induction heads: what followed the special id the first time?  Source: arXiv 2209.11895, 2312.00752."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import TokenBatch, TokenTask, empty_batch, room


@dataclass(frozen=True)
class InductionOptions:
    """symbols: ordinary ids; the special id is 0."""

    symbols: int = 15


class Induction(TokenTask):
    """Random ids with the special id once at a random place and once at the end, where its first successor is the answer."""

    name = "induction"
    Options = InductionOptions
    chance = "1 / symbols"
    marks = 1

    def batch(self, rows: int, length: int, by: np.random.Generator) -> TokenBatch:
        room(self.name, length, 4)
        out, every = empty_batch(rows, length), np.arange(rows)
        out.ids[:] = by.integers(1, self.vocab_size, (rows, length))
        places = by.integers(0, length - 2, rows)
        out.ids[every, places], out.ids[:, -1], out.load[:] = 0, 0, 1
        out.targets[:, -1] = out.ids[every, places + 1]
        out.distance[:, -1] = length - 2 - places
        return out
