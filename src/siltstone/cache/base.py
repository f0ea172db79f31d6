"""The interface of caching policies. A policy is independent of the update rule: it turns scores of checkpoints into gates.

    logit_{h,n} = exp(log_scale_h) sqrt(m) score_n + bias_h - slope_h age_n

score_n is computed by `Router.scores` from the routing keys of checkpoint n, m is the number of writes that one of its summaries
covers, age_n its distance in segments (with `gate_distance="alibi"`). Source: arXiv 2602.24281, eqs. 9, 10, 16, 17; normalised
routing keys with their own width and a learned temperature per head; the distance bias as in arXiv 2108.12409, over segments
instead of tokens.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..config.registry import NoOptions
from ..ops import routing
from ..ops.alibi import slopes
from ..ops.norm import l2
from ..schedule.segments import Segments


@dataclass
class ReadWeights:
    """The weights with which memories are read.

    online  [R, Q, H] gate of the online memory; None: 1
    gates   [R, Q, H, N] over all checkpoints, or [R, Q, H, k] over the selected ones; None: 1 for all that are visible
    index   [R, Q, k] the selected checkpoints; None: all
    """

    online: Tensor | None = None
    gates: Tensor | None = None
    index: Tensor | None = None


@dataclass
class RouterScores:
    """The inputs from which a policy computes gates.

    scores       [R, Q, N] of the checkpoints
    online       [R, Q] of the online memory (softmax gates only)
    hidden       bool [R, Q or 1, N], True where a checkpoint is not there; None: all are
    age          gives [R, Q or 1, N] segments from a checkpoint's last to the online one: 1 for the newest
    newest_last  checkpoints stand in order of time
    every        the policy reads all of them: it need not choose
    """

    scores: Tensor
    online: Tensor | None = None
    hidden: Tensor | None = None
    age: Callable[[], Tensor] | None = None
    newest_last: bool = True
    every: bool = False

    def at(self, index: Tensor) -> RouterScores:
        """The scores of the checkpoints at index [R, Q, k]."""

        def pick(x: Tensor) -> Tensor:
            return x.expand_as(self.scores).gather(-1, index)

        hidden, age = None if self.hidden is None else pick(self.hidden), self.age
        far = None if age is None else lambda: pick(age())
        return RouterScores(pick(self.scores), self.online, hidden, far, self.newest_last)


class Router(nn.Module):
    """Routing queries u = l2(x W_u) and keys l2(c W_r), width U, and the gates' temperature and biases, one of each per head.

    router = "mean": score_n = <u, s_n>, s_n the mean key of the checkpoint's writes. router = "subblock:m": score_n =
    log sum_j exp(b <u, s_nj>) / b over the mean keys s_nj of its sub-blocks of m tokens, b = 8 sqrt(writes of a sub-block): a
    smooth maximum. Heads share the scores. shares_routing: the scores are those of an earlier layer; no queries and keys here.

    summed: the keys of a checkpoint are means over its writes; else they are read from its state (`cache/anchors.py`)
    """

    summed: ClassVar[bool] = True

    def __init__(self, cfg: LayerConfig, shares_routing: bool = False):
        super().__init__()
        self.leads = not shares_routing
        if not shares_routing:
            self.query = nn.Linear(cfg.d_model, cfg.router_dim, bias=False)
            self.key = nn.Linear(self.key_width(cfg), cfg.router_dim, bias=False)
        self.log_scale = nn.Parameter(torch.full((cfg.heads,), -math.log(cfg.temperature)))
        self.bias = nn.Parameter(torch.zeros(cfg.heads))
        self.online = nn.Parameter(torch.zeros(cfg.heads))
        self.block = cfg.subblock // cfg.every  # updates of the memory per sub-block
        self.blocks = cfg.segment // cfg.subblock
        self.spread = math.sqrt(cfg.subblock // cfg.rate)
        self.softmax = cfg.gate == "softmax"
        self.slopes = slopes(cfg.heads) if cfg.gate_distance == "alibi" else None

    @classmethod
    def key_width(cls, cfg: LayerConfig) -> int:
        """The width of what W_r takes."""
        return cfg.d_model

    def writes(self, segments: Segments, number: np.ndarray) -> np.ndarray:
        """int64 [R, ..., J], by how many writes the sums of sealed segments [R, ...] are divided."""
        return segments.writes(number, self.block, self.blocks)

    def empty(self, segments: Segments, number: int) -> np.ndarray | None:
        """bool [R, number, J], which keys of the first segments stand for no write; None: there are none."""
        return segments.empty(number, self.block, self.blocks)

    def queries(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., U]."""
        return l2(self.query(x))

    def keys(self, c: Tensor) -> Tensor:
        """[..., D or key_width] -> [..., U]."""
        return l2(self.key(c))

    def scores(self, u: Tensor, summary: Tensor, empty: Tensor | None) -> Tensor:
        """u [R, Q, U], summary [R, N, J, U], empty bool [R, N, J] (sub-blocks without a write) -> [R, Q, N]."""
        return routing.scores(u, summary, self.spread, empty)

    def best(self, each: Tensor, empty: Tensor | None) -> Tensor:
        """Scores of sub-blocks [..., J], some of them empty -> scores of the checkpoints [...]."""
        return routing.best(each, self.spread, empty)

    def gates(self, asked: RouterScores) -> tuple[Tensor | None, Tensor]:
        """-> online gate [R, Q, H] (None: 1) and gates [R, Q, H, N]."""
        own = far = None
        if self.softmax:
            assert asked.online is not None
            own = asked.online, self.online
        if asked.age is not None and self.slopes is not None:
            far = self.slopes, asked.age()
        return routing.gates(asked.scores, self.log_scale.exp() * self.spread, self.bias, own, asked.hidden, far)


class CachePolicy(nn.Module):
    """A policy. Subclasses define `name` and, if they route, `mix`.

    keeps    checkpoints are sealed
    routed   gates are computed from scores, so the layer has a `Router`
    blends   weights are blended and then read, instead of blending outputs
    sparse   `mix` selects checkpoints, and is called once for the whole call
    exact    there is no memory: the layer attends to blocks of tokens
    pairs    the number of writes whose keys and values are kept beside the checkpoints (`layers/pairs.py`)
    reads    checkpoints that a token reads at most, where they are chosen: `top_k`, and more in some training (`train.aids`)
    observer in some training: gets queries, matrices and gates of reads of all checkpoints
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    keeps: ClassVar[bool] = True
    routed: ClassVar[bool] = True
    blends: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__()
        self.cfg, self.options = cfg, options
        self.pairs, self.reads = 0, cfg.top_k
        self.observer: Callable[[Tensor, Tensor, Tensor], None] | None = None

    @classmethod
    def check(cls, cfg: LayerConfig, options: Any) -> None:
        """Raise ConfigError if this policy cannot work with the layer's other keys."""

    @abstractmethod
    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """The gates with which the online memory and the checkpoints are read."""
