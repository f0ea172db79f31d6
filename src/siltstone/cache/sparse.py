"""Sparse selective caching (SSC): y = g M(q) + sum_{n in top-k} g_n M_n(q).  Source: arXiv 2602.24281, eqs. 16 and 17.

The selection is shared by the heads, the gates are a head's own; the online memory is always kept. Scores are compared in
whole steps of 2^-12; of equal ones the most recent checkpoint wins. State: a sealed state and a routing key of U floats a
checkpoint.
Cost: `top_k` reads, and U for the score of each checkpoint.

For: banks of many checkpoints (segments that are constant, or by content), where reading everything is too dear.
Can: look into any checkpoint at a cost that hardly grows with their number.
Cannot: use more than `top_k` at once, nor learn from one that it did not pick.
"""

from __future__ import annotations

from typing import ClassVar

from ..ops.routing import in_steps, top
from ..ops.routing import ranked as best
from .base import CachePolicy, ReadWeights, Router, RouterScores


class Sparse(CachePolicy):
    """The `top_k` best checkpoints of each token."""

    name: ClassVar[str] = "sparse"
    sparse: ClassVar[bool] = True

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """See CachePolicy."""
        k = min(self.cfg.top_k, asked.scores.shape[-1])
        ranked = in_steps(asked.scores)
        if asked.static:
            index = best(ranked, asked.hidden, k, asked.newest_last)
            online, gates = router.gates(asked.at(index))
            return ReadWeights(online, gates, index)
        if asked.hidden is not None:
            ranked = ranked.masked_fill(asked.hidden, float("-inf"))
        index = top(ranked, k, asked.newest_last)
        online, gates = router.gates(asked.at(index))
        return ReadWeights(online, gates, index)
