"""Needles in tokens: pairs of key and value at random places of a long stream of fillers; keys are asked at its end.

The trained counterpart of the multi-key needles of RULER (arXiv 2404.06654): keys that are not asked distract.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import TokenBatch, TokenTask, empty_batch, room


@dataclass(frozen=True)
class TokenNeedleOptions:
    """symbols: ids; loads: numbers of pairs, one drawn per batch; asked: keys asked of each stream at most; fillers: ids at
    the end from which fillers are drawn; 0: all fillers are id 0."""

    symbols: int = 256
    loads: tuple[int, ...] = (1, 4, 16)
    asked: int = 4
    fillers: int = 64


class TokenNeedles(TokenTask):
    """Keys from the lower and values from the upper half of the ids that are not fillers, without repeats in a stream, in pairs
    at random places; the last `asked` tokens are keys, and the model must predict their values. Other places have fillers."""

    name = "token_needles"
    Options = TokenNeedleOptions
    levels = (256, 1024)
    chance = "2 / (symbols - fillers)"

    def batch(self, rows: int, length: int, by: np.random.Generator) -> TokenBatch:
        o = self.options
        pairs = int(by.choice(o.loads))
        half, asked = (o.symbols - o.fillers) // 2, min(pairs, o.asked)
        room(self.name, length, 2 * pairs + asked)
        room(f"{self.name} with symbols={o.symbols} and fillers={o.fillers} (the load needs as many keys)", half - 1, pairs)
        out, places = empty_batch(rows, length), (length - asked) // 2
        out.ids[:] = by.integers(o.symbols - o.fillers, o.symbols, (rows, length)) if o.fillers else 0
        for r in range(rows):
            keys = by.choice(np.arange(1, half), pairs, replace=False)
            values = by.choice(np.arange(half, 2 * half), pairs, replace=False)
            at = 2 * by.choice(places, pairs, replace=False)
            chosen = by.choice(pairs, asked, replace=False)
            out.ids[r, at], out.ids[r, at + 1] = keys, values
            out.ids[r, length - asked :], out.targets[r, length - asked :] = keys[chosen], values[chosen]
            out.distance[r, length - asked :] = np.arange(length - asked, length) - at[chosen] - 1
        out.load[:] = pairs
        return out
