"""What a caching policy is. A policy knows no update rule: it turns scores of checkpoints into gates.

    score_n = <u_t, summary_n>,   logit_{h,n} = exp(log_scale_h) sqrt(C / r) score_n + bias_h

Source: arXiv 2602.24281, eqs. 9, 10, 16, 17; unit routing keys of their own width and a learned temperature a head.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LayerConfig
from ..norm import l2


@dataclass
class Mix:
    """With what weights memories are read.

    online  [R, Q, H] gate of the online memory, or None: 1
    gates   [R, Q, H, N] over all checkpoints, or [R, Q, H, k] over the chosen ones; None: 1 for all that are visible
    index   [R, Q, k] the chosen checkpoints, or None: all
    """

    online: Tensor | None = None
    gates: Tensor | None = None
    index: Tensor | None = None


class Router(nn.Module):
    """Routing queries u = l2(x W_u) and keys l2(c W_r), width U, and the gates' temperature and biases, one a head."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.query = nn.Linear(cfg.d_model, cfg.router_dim, bias=False)
        self.key = nn.Linear(cfg.d_model, cfg.router_dim, bias=False)
        self.log_scale = nn.Parameter(torch.full((cfg.heads,), math.log(8.0)))
        self.bias = nn.Parameter(torch.zeros(cfg.heads))
        self.online = nn.Parameter(torch.zeros(cfg.heads))
        self.spread = math.sqrt(cfg.segment // cfg.rate)
        self.softmax = cfg.gate == "softmax"

    def queries(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., U]."""
        return l2(self.query(x))

    def keys(self, c: Tensor) -> Tensor:
        """[..., D] -> [..., U]."""
        return l2(self.key(c))

    def gates(self, scores: Tensor, online: Tensor | None, hidden: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """scores [R, Q, n], online [R, Q], hidden bool (broadcast to scores) -> online gate [R, Q, H] and gates [R, Q, H, n]."""
        scale = (self.log_scale.exp() * self.spread).to(scores.dtype).view(-1, 1, 1)
        bias = self.bias.unsqueeze(-1).expand(-1, scores.shape[-1])
        if self.softmax:
            assert online is not None
            scores, bias = torch.cat([scores, online.unsqueeze(-1)], -1), torch.cat([bias, self.online.unsqueeze(-1)], -1)
        last = scores.transpose(-1, -2).contiguous().unsqueeze(1)  # checkpoints before queries: their softmax is vectorised
        logits = torch.addcmul(bias.to(scores.dtype).unsqueeze(-1), last, scale)
        if hidden is not None:
            hidden = F.pad(hidden, (0, 1)) if self.softmax else hidden
            logits = logits.masked_fill(hidden.transpose(-1, -2).unsqueeze(1), float("-inf"))
        weights = (logits.softmax(2) if self.softmax else logits.sigmoid()).permute(0, 3, 1, 2)
        return (weights[..., -1], weights[..., :-1]) if self.softmax else (None, weights)


class CachePolicy(nn.Module):
    """A policy. Subclasses define `name` and, where they route, `mix`.

    keeps    checkpoints are sealed at all
    routed   gates come from scores, so that the layer has a `Router`
    blends   weights are mixed and then read, instead of outputs
    sparse   `mix` picks checkpoints, and is asked once for the whole call
    """

    name: ClassVar[str]
    keeps: ClassVar[bool] = True
    routed: ClassVar[bool] = True
    blends: ClassVar[bool] = False
    sparse: ClassVar[bool] = False

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.cfg = cfg

    @classmethod
    def check(cls, cfg: LayerConfig) -> None:
        """Raise ConfigError where this policy cannot work with the layer's other keys."""

    @abstractmethod
    def mix(self, router: Router, scores: Tensor, online: Tensor | None, hidden: Tensor | None, newest_last: bool) -> Mix:
        """scores [R, Q, N] of the checkpoints, online [R, Q] (softmax gates only), hidden bool [R, Q or 1, N] -> gates."""
