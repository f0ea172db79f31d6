"""Memory soup: theta* = g theta + sum_n g_n theta_n, y = M*(q).  Source: arXiv 2602.24281, eqs. 14 and 15.

Equal to `gated` where reading is linear in the weights, and run as that there. State: a sealed state and a routing key of U
floats a checkpoint.
Cost: the weights of each checkpoint once, and U for its score; one read.

For: MLP memories whose checkpoints are to be one memory.
Can: read one blended memory, through its nonlinear parts once.
Cannot: keep checkpoints apart: blended weights of unlike memories may mean nothing.
"""

from __future__ import annotations

from typing import ClassVar

from .base import CachePolicy, ReadWeights, Router, RouterScores


class Soup(CachePolicy):
    """Gates blend weights."""

    name: ClassVar[str] = "soup"
    blends: ClassVar[bool] = True

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """See CachePolicy."""
        return ReadWeights(*router.gates(asked))
