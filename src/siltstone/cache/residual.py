"""Residual: y = M(q) + sum_n M_n(q).

Source: arXiv 2602.24281, eq. 7 (a linear memory reads one summed matrix, eq. 13). State: one sealed state per checkpoint.
Cost: one read per checkpoint; if reads are linear, one extra read in total.

For: a first try of caching, without a router to train.
Can: reach every checkpoint from the first training step.
Cannot: ignore a checkpoint: all have weight 1, so those that do not match the query add noise.
"""

from __future__ import annotations

from typing import ClassVar

from .base import CachePolicy, ReadWeights, Router, RouterScores


class Residual(CachePolicy):
    """Every checkpoint has weight 1."""

    name: ClassVar[str] = "residual"
    routed: ClassVar[bool] = False

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """Ones."""
        return ReadWeights()
