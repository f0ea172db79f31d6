"""Sparse selective caching (SSC): y = g M(q) + sum_{n in top-k} g_n M_n(q).  Source: arXiv 2602.24281, eqs. 16 and 17.

The heads share the selection, and each head has its own gates; the online memory is always read. Scores are compared in
steps of 2^-12; ties go to the most recent checkpoint. State: per checkpoint, a sealed state and a routing key of U floats.
Cost: `top_k` reads, and per checkpoint U for its score.

For: banks of many checkpoints (segments="constant" or "content"), where reading all of them costs too much.
Can: read any checkpoint at a cost that hardly grows with their number.
Cannot: read more than `top_k` checkpoints per token, nor train through one that was not selected.
"""

from __future__ import annotations

from typing import ClassVar

from ..ops.routing import in_steps, top
from .base import CachePolicy, ReadWeights, Router, RouterScores


class Sparse(CachePolicy):
    """The `top_k` best checkpoints of each token."""

    name: ClassVar[str] = "sparse"
    sparse: ClassVar[bool] = True

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """See CachePolicy."""
        if asked.every:
            return ReadWeights(*router.gates(asked))
        k = min(self.reads, asked.scores.shape[-1])
        index = top(in_steps(asked.scores), asked.hidden, k, asked.newest_last)
        online, gates = router.gates(asked.at(index))
        return ReadWeights(online, gates, index)
