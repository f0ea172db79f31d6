"""Memory soup: theta* = g theta + sum_n g_n theta_n, y = M*(q).  Source: arXiv 2602.24281, eqs. 14 and 15.

Equal to `gated` if reads are linear in the weights, and then computed as `gated`. State: per checkpoint, a sealed state and a
routing key of U floats.
Cost: per checkpoint, its weights once, and U for its score; one read.

For: MLP memories whose checkpoints are to be read as one memory.
Can: read one blended memory, with a single pass through its nonlinear parts.
Cannot: keep checkpoints separate: a blend of very different weights can be meaningless.
"""

from __future__ import annotations

from typing import ClassVar

from .base import CachePolicy, ReadWeights, Router, RouterScores


class Soup(CachePolicy):
    """Gates blend weights, not outputs."""

    name: ClassVar[str] = "soup"
    blends: ClassVar[bool] = True

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """See CachePolicy."""
        return ReadWeights(*router.gates(asked))
