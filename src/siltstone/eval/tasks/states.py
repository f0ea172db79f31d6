"""State tracking: parity of bits, and products of permutations of five things (S5).  Source: arXiv 2404.08819, 2411.12537."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from .base import TokenBatch, TokenTask, empty_batch, room

GROUP = np.array(list(permutations(range(5))))  # [120, 5]: id -> where each thing goes; 0 is the identity
CODE = 5 ** np.arange(5)
NUMBER = {int(code): i for i, code in enumerate(GROUP @ CODE)}
PRODUCT = np.array([[NUMBER[int(a[b] @ CODE)] for b in GROUP] for a in GROUP])  # [a, b]: first b, then a


class Parity(TokenTask):
    """Random bits; at every place the answer is the parity of the bits so far."""

    name = "parity"
    chance = "1 / 2"
    located = False

    @property
    def vocab_size(self) -> int:
        return 2

    def batch(self, rows: int, length: int, by: np.random.Generator) -> TokenBatch:
        room(self.name, length, 1)
        out = empty_batch(rows, length)
        out.ids[:] = by.integers(0, 2, (rows, length))
        out.targets[:], out.load[:] = out.ids.cumsum(1) % 2, 1
        return out


class S5(TokenTask):
    """Random permutations; at every place the answer is their product so far, the latest applied last."""

    name = "s5"
    chance = "1 / 120"
    located = False

    @property
    def vocab_size(self) -> int:
        return len(GROUP)

    def batch(self, rows: int, length: int, by: np.random.Generator) -> TokenBatch:
        room(self.name, length, 1)
        out, so_far = empty_batch(rows, length), np.zeros(rows, np.int64)
        out.ids[:], out.load[:] = by.integers(0, len(GROUP), (rows, length)), 1
        for t in range(length):
            so_far = PRODUCT[out.ids[:, t], so_far]
            out.targets[:, t] = so_far
        return out
