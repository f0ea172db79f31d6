"""No cache: y = M(q), one endless segment, the plain recurrence.

Source: arXiv 2602.24281, eq. 4. State: no checkpoints.
Cost: one read.

For: the smallest state and the steadiest cost.
Can: go on for ever in the memory of one state.
Cannot: look back past what its rule has kept.
"""

from __future__ import annotations

from typing import ClassVar

from .base import CachePolicy, ReadWeights, Router, RouterScores


class NoCache(CachePolicy):
    """y = M(q)."""

    name: ClassVar[str] = "none"
    keeps: ClassVar[bool] = False
    routed: ClassVar[bool] = False

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """Never asked."""
        return ReadWeights()
