"""Minimal GRU: z = sigmoid(~z), h <- (1 - z) h + z n, n the candidate. Source: arXiv 2410.01201, section 3.1."""

from __future__ import annotations

from torch import Tensor

from .vector import chunk, step

__all__ = ["chunk", "gates", "step"]  # h <- keep h + new


def gates(z: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """keep = 1 - sigmoid(z), new = sigmoid(z) n; each of the same shape."""
    return (-z).sigmoid(), z.sigmoid() * candidate
