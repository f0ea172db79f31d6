"""Rows in which strings of tokens come twice: a model learns from them to look up what followed a token before.

Half of the rows are random ids, half pieces of the training text. A string of 8 to 64 tokens is repeated at a distance that is
uniform, or uniform in its logarithm, up to the beginning of the row. Only tokens that the repetition determines are asked for.
The ability to copy appears after some hundred steps on such rows, and hardly at all in as many steps on text alone.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.lm import LM
from ..ops.upcast import upcast

SHORTEST, LONGEST = 8, 64


def rows(text: np.ndarray, vocab: int, count: int, length: int, by: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ids int64 [count, length], and bool [count, length], the tokens that are asked for. text: ids of the training text."""
    ids, asked = by.integers(0, vocab, (count, length)), np.zeros((count, length), bool)
    for r in range(count):
        if r % 2 and len(text) > length:
            begin = int(by.integers(len(text) - length))
            ids[r] = text[begin : begin + length]
        size = int(by.integers(SHORTEST, LONGEST + 1))
        at = size
        while at + size <= length:
            room = at - size
            far = by.random() < 0.5
            distance = int(by.integers(0, room + 1)) if far else int((room + 1) ** by.random()) - 1
            source = room - min(distance, room)
            ids[r, at : at + size] = ids[r, source : source + size]
            asked[r, at + 1 : at + size] = True
            after = int(by.integers(SHORTEST, LONGEST + 1))
            at = max(at + size + int(by.integers(0, size)), after)
            size = after
    return ids, asked


def cost(model: LM, ids: np.ndarray, asked: np.ndarray, device: torch.device) -> Tensor:
    """The mean cost in nats of the tokens that are asked for; the rows begin from an empty state."""
    given, wanted = torch.from_numpy(ids).to(device), torch.from_numpy(asked[:, 1:]).to(device)
    hidden = model.features(given)[0][:, :-1][wanted]
    return F.cross_entropy(upcast(model.head(hidden)), given[:, 1:][wanted])
