"""Residual: y = M(q) + sum_n M_n(q).

Source: arXiv 2602.24281, eq. 7 (a linear memory reads one summed matrix, eq. 13). State: a sealed state a checkpoint.
Cost: a read of each checkpoint; one more read in all where reading is linear.

For: a first look at caching, without a router to train.
Can: reach every checkpoint from the first step of training on.
Cannot: pass over a checkpoint: all count 1, and what does not fit the question is noise.
"""

from __future__ import annotations

from typing import ClassVar

from .base import CachePolicy, ReadWeights, Router, RouterScores


class Residual(CachePolicy):
    """Every checkpoint counts 1."""

    name: ClassVar[str] = "residual"
    routed: ClassVar[bool] = False

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """Ones."""
        return ReadWeights()
