"""Multi-query associative recall: pairs of a key and a value, then each key once more.  Source: arXiv 2312.04927."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import TokenBatch, TokenTask, empty_batch, room


@dataclass(frozen=True)
class MQAROptions:
    """vocab_size; loads: numbers of pairs, one drawn per batch; power: of the law of gaps; fillers: "random" ids, or "zero"."""

    vocab_size: int = 8192
    loads: tuple[int, ...] = (4, 8, 16)
    power: float = 0.01
    fillers: str = "random"


class MQAR(TokenTask):
    """Pairs first: keys from the lower half of the ids, values from the upper half, both without repeats in a stream. Then each
    key stands once more, at gaps 2g, P(g) ~ g^(power - 1); there the model must predict its value. Other places have fillers."""

    name = "mqar"
    Options = MQAROptions
    chance = "2 / vocab_size"

    @property
    def vocab_size(self) -> int:
        return self.options.vocab_size

    def batch(self, rows: int, length: int, by: np.random.Generator) -> TokenBatch:
        o = self.options
        pairs = int(by.choice(o.loads))
        room(self.name, length, 4 * pairs)
        out, half, space = empty_batch(rows, length), o.vocab_size // 2, (length - 2 * pairs) // 2
        room(f"{self.name} with vocab_size={o.vocab_size} (the load needs as many keys)", half, pairs + 1)
        law = np.arange(1, space + 1) ** (o.power - 1.0)
        if o.fillers == "random":
            out.ids[:] = by.integers(0, o.vocab_size, (rows, length))
        for r in range(rows):
            keys = by.choice(np.arange(1, half), pairs, replace=False)
            values = by.choice(np.arange(half, o.vocab_size), pairs, replace=False)
            places = 2 * pairs + 2 * by.choice(space, pairs, replace=False, p=law / law.sum())
            out.ids[r, : 2 * pairs] = np.stack([keys, values], -1).ravel()
            out.ids[r, places], out.targets[r, places] = keys, values
            out.distance[r, places] = places - (2 * np.arange(pairs) + 1)
        out.load[:] = pairs
        return out
