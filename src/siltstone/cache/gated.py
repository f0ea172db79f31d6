"""Gated residual memory (GRM): y = g M(q) + sum_n g_n M_n(q).

Source: arXiv 2602.24281, eqs. 9 and 10. State: per checkpoint, a sealed state and a routing key of U floats.
Cost: per checkpoint, one read, and U for its score.

For: retrieval by topic; the default.
Can: weigh each checkpoint by its match with the token; train through all checkpoints; with `exact`, also keep single pairs of key
and value that the memory predicts badly (arXiv 2607.02303), read with a norm of their own.
Cannot: keep its cost constant with constant segments: it reads every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..config.layer import SEEN, LayerConfig, whole
from .base import CachePolicy, ReadWeights, Router, RouterScores
from .exact import check_predicts


@dataclass(frozen=True)
class GatedOptions:
    """exact: the largest number of writes whose keys and values are kept beside the checkpoints, those with the largest
    beta |v - M(k)| (`layers/pairs.py`); 0: none."""

    exact: int = 0


class GatedCache(CachePolicy):
    """Gates over all checkpoints: a softmax that includes the online memory, or one sigmoid each with the online memory at 1."""

    name: ClassVar[str] = "gated"
    Options = GatedOptions

    def __init__(self, cfg: LayerConfig, options: GatedOptions):
        super().__init__(cfg, options)
        self.pairs = options.exact

    @classmethod
    def check(cls, cfg: LayerConfig, options: GatedOptions) -> None:
        """`exact` requires a memory with keys and values (no recurrent network)."""
        whole("cache_options exact", options.exact, 0, SEEN)
        if options.exact:
            check_predicts(cfg, f"cache_options exact={options.exact}", "exact=0")

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """See CachePolicy."""
        return ReadWeights(*router.gates(asked))
