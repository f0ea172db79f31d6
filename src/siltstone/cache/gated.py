"""Gated residual memory (GRM): y = g M(q) + sum_n g_n M_n(q).

Source: arXiv 2602.24281, eqs. 9 and 10. State: per checkpoint, a sealed state and a routing key of U floats.
Cost: per checkpoint, one read, and U for its score.

For: retrieval by topic; the default.
Can: weigh each checkpoint by its match with the token; train through all checkpoints.
Cannot: keep its cost constant with constant segments: it reads every checkpoint.
"""

from __future__ import annotations

from typing import ClassVar

from .base import CachePolicy, ReadWeights, Router, RouterScores


class GatedCache(CachePolicy):
    """Gates over all checkpoints: a softmax that includes the online memory, or one sigmoid each with the online memory at 1."""

    name: ClassVar[str] = "gated"

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """See CachePolicy."""
        return ReadWeights(*router.gates(asked))
