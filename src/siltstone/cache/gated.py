"""Gated residual memory (GRM): y = g M(q) + sum_n g_n M_n(q).

Source: arXiv 2602.24281, eqs. 9 and 10. State: a sealed state and a routing key of U floats a checkpoint.
Cost: a read of each checkpoint, and U for its score.

For: looking back by topic; the default.
Can: weigh each checkpoint by how well it fits the token; learn from all of them.
Cannot: cost the same at any length with constant segments: it reads every checkpoint.
"""

from __future__ import annotations

from typing import ClassVar

from .base import CachePolicy, ReadWeights, Router, RouterScores


class GatedCache(CachePolicy):
    """Gates over all checkpoints: softmax together with the online memory, or a sigmoid each with the online memory at 1."""

    name: ClassVar[str] = "gated"

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """See CachePolicy."""
        return ReadWeights(*router.gates(asked))
