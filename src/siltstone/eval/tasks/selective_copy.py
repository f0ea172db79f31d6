"""Selective copying: data strewn among blanks, to be repeated in order at the end.  Source: arXiv 2312.00752."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import TokenBatch, TokenTask, empty_batch, room

BLANK, ASK = 0, 1


@dataclass(frozen=True)
class CopyOptions:
    """symbols: different data ids; count: data ids in a stream."""

    symbols: int = 14
    count: int = 16


class SelectiveCopy(TokenTask):
    """`count` data ids at random places among blanks (id 0), then `count` marks (id 1): the k-th must be answered by the k-th."""

    name = "selective_copy"
    Options = CopyOptions
    chance = "1 / symbols"
    marks = 2

    def batch(self, rows: int, length: int, by: np.random.Generator) -> TokenBatch:
        count = self.options.count
        room(self.name, length, 2 * count)
        out = empty_batch(rows, length)
        out.ids[:, -count:], out.load[:] = ASK, count
        for r in range(rows):
            places = np.sort(by.choice(length - count, count, replace=False))
            data = by.integers(2, self.vocab_size, count)
            out.ids[r, places], out.targets[r, -count:] = data, data
            out.distance[r, -count:] = np.arange(length - count, length) - places
        return out
