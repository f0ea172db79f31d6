"""Rows in which strings of tokens come twice: a model learns from them to look up what followed a token before.

Half of the rows are random ids, half pieces of the training text. A string of 8 to 64 tokens (at most a quarter of the row) is
repeated: one half at a distance that is uniform in its logarithm, the other from early places that, if possible, were not
repeated before. Otherwise nearly every token has stood shortly before, and nothing is learnt about longer distances. Only tokens
that the repetition determines are asked for.
The ability to copy appears after some hundred steps on such rows, and hardly at all in as many steps on text alone.

Far rows (`far_rows`) repeat strings only from beyond the window, each place once, so that the window cannot answer. Two of three
rows are pieces of the text.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.lm import LM
from ..ops.upcast import upcast

SHORTEST, LONGEST = 8, 64
TRIES = 64
FAR = (12, 64)  # tokens of a string that is repeated from beyond the window
LENGTHS = (3, 3, 6, 3, 3, 9)  # of far rows, in windows, step after step


def rows(text: np.ndarray, vocab: int, count: int, length: int, by: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids int64 [count, length], and bool [count, length], the tokens that are asked for. text: ids of the training text."""
    ids, asked = by.integers(0, vocab, (count, length)), np.zeros((count, length), bool)
    longest = max(2, min(LONGEST, length // 4))
    shortest = min(SHORTEST, longest)
    for r in range(count):
        if r % 2 and len(text) > length:
            begin = int(by.integers(len(text) - length))
            ids[r] = text[begin : begin + length]
        new = np.ones(length, bool)  # tokens that stand for the first time and were not repeated
        size = int(by.integers(shortest, longest + 1))
        at = size
        while at + size <= length:
            source = _source(new, at - size, size, by)
            ids[r, at : at + size] = ids[r, source : source + size]
            asked[r, at + 1 : at + size] = True
            new[source : source + size] = new[at : at + size] = False
            after = int(by.integers(shortest, longest + 1))
            at = max(at + size + int(by.integers(0, 3 * size)), after)
            size = after
    return ids, asked


def far_rows(
    text: np.ndarray, vocab: int, count: int, length: int, window: int, by: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """As `rows`: the first part of each row comes again, in strings, each more than `window` tokens later.

    length   at least 3 windows and 96 tokens
    """
    ids, asked = by.integers(0, vocab, (count, length)), np.zeros((count, length), bool)
    shortest, longest = FAR
    for r in range(count):
        if r % 3 and len(text) > length:
            begin = int(by.integers(len(text) - length))
            ids[r] = text[begin : begin + length]
        end, source = (length - window - shortest) // 2, 0  # tokens that come again
        at = max(end, window + 1) + int(by.integers(SHORTEST, window + 4))
        while at < length - SHORTEST and source < end - SHORTEST:
            size = min(int(by.integers(shortest, longest + 1)), length - at, end - source)
            ids[r, at : at + size] = ids[r, source : source + size]
            asked[r, at + 1 : at + size] = True
            source, at = source + size, at + size + int(by.integers(0, shortest))
    return ids, asked


def _source(new: np.ndarray, room: int, size: int, by: np.random.Generator) -> int:
    """Where a string begins: one half is near, by the logarithm of the distance; the other at a new place, if one is found."""
    if by.random() < 0.5:
        return room - min(int((room + 1) ** by.random()) - 1, room)
    drawn = [int(by.integers(0, room + 1)) for _ in range(TRIES)]
    return min((source for source in drawn if new[source : source + size].all()), default=drawn[0])


def cost(model: LM, ids: np.ndarray, asked: np.ndarray, device: torch.device) -> Tensor:
    """The mean cost in nats of the tokens that are asked for; the rows begin from an empty state."""
    given, wanted = torch.from_numpy(ids).to(device), torch.from_numpy(asked[:, 1:]).to(device)
    hidden = model.features(given)[0][:, :-1][wanted]
    return F.cross_entropy(upcast(model.head(hidden)), given[:, 1:][wanted])
