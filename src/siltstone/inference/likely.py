"""Probabilities of the tokens of a text, and of the ids that were most probable in their places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .tokens import log_probabilities


@dataclass(frozen=True)
class Place:
    """One token. score: its natural-log probability, nan without a prediction; best: the most probable ids and theirs."""

    token: int
    score: float
    best: tuple[tuple[int, float], ...]


class Likely:
    """Computes log-probabilities as `log_probabilities` does, and keeps a `Place` for each token. For one text.

    They are those of the model: before temperature, bias, and the ids that are never written.
    """

    def __init__(self, top: int) -> None:
        self.top, self.places = top, list[Place]()

    def __call__(self, last_V: Tensor | None, logits_TV: Tensor, ids_T: Tensor) -> Tensor:
        """See `log_probabilities`."""
        scores = log_probabilities(last_V, logits_TV, ids_T)
        for row, token, score in zip(self._rows(last_V, logits_TV), ids_T.tolist(), scores.tolist(), strict=True):
            self.places.append(Place(token, score, () if math.isnan(score) else row))
        return scores

    def chosen(self, last_V: Tensor, token: int) -> None:
        """A token that was chosen by the logits `last_V`."""
        self(last_V, last_V[None], torch.tensor([token], device="cpu"))

    def _rows(self, last_V: Tensor | None, logits_TV: Tensor) -> list[tuple[tuple[int, float], ...]]:
        if not self.top:
            return [()] * len(logits_TV)
        first_1V = torch.full_like(logits_TV[:1], torch.nan) if last_V is None else last_V[None]
        before_TV = torch.cat([first_1V, logits_TV[:-1]]).float()
        values, ids = torch.log_softmax(before_TV, -1).topk(min(self.top, before_TV.shape[-1]))
        return [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
