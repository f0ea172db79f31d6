"""No cache: y = M(q), one segment without end, the plain recurrence.

Source: arXiv 2602.24281, eq. 4. State: no checkpoints.
Cost: one read.

For: the smallest state and a constant cost per token.
Can: process text of any length with a single state.
Cannot: read anything that its rule has forgotten.
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
        """Not used: there is nothing to route."""
        return ReadWeights()
