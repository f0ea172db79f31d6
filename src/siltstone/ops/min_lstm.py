"""Minimal LSTM: f = sigmoid(~f), i = sigmoid(~i), h <- (f h + i n) / (f + i), n the candidate.

Source: arXiv 2410.01201, section 3.2 (with the gates' sum normalised to 1).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from .vector import chunk, step

__all__ = ["chunk", "gates", "step"]  # h <- keep h + new


def gates(forget: Tensor, enter: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """keep = f / (f + i), new = i / (f + i) n; each of the same shape.

    f / (f + i) is computed as sigmoid(log f - log i), which is stable for small gates.
    """
    odds = softplus(-enter) - softplus(-forget)
    return odds.sigmoid(), (-odds).sigmoid() * candidate
