"""Attention pooling: m learned queries attend to the block, each with its own keys and values.

    c = concat_j [ sum_i softmax_i(<p_j, x_i W_k^j> / sqrt(U) + b_ji) x_i W_v^j ] W_o,   j = 1..m, U = D / m

With `context` the queries are p_j + x' W_c^j, x' the mean of the window's tokens at the time of the write: the content kept of
a block depends on the tokens that follow it.
Source: arXiv 1810.00825, section 3.2 (pooling by multihead attention with learned seeds), with a bias b per query and
place, so that order inside a block matters. State: none of its own (the layer holds up to rate - 1 tokens).
Cost: 2 * D * D, and D * D per write.

For: blocks from which several items are to be kept.
Can: select by content and by place, separately for each query, and write a different summary for each.
Cannot: pass more than D / queries numbers from the tokens that one query selected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig, divisors, nearest
from ..errors import ConfigError
from .base import Compress


@dataclass(frozen=True)
class AttentionOptions:
    """queries: m, the number of learned queries; each has width D / m. context: the queries also depend on the recent window."""

    queries: int = 4
    context: bool = False


class AttentionPool(Compress):
    """seed p [m, U], project [W_k, W_v] [2 D, D], place b [m, rate], out W_o [D, D]."""

    name: ClassVar[str] = "attention"
    Options = AttentionOptions

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.queries, width = options.queries, cfg.d_model // options.queries
        self.seed = nn.Parameter(torch.randn(self.queries, width))
        self.place = nn.Parameter(torch.zeros(self.queries, cfg.rate))
        self.project = nn.Linear(cfg.d_model, 2 * cfg.d_model, bias=False)
        self.out = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        self.sees_window = options.context
        self.context = nn.Linear(cfg.d_model, cfg.d_model, bias=False) if options.context else None

    @classmethod
    def check(cls, cfg: LayerConfig, options: Any) -> None:
        """`queries` must divide `d_model`; `context=true` requires `write_delay='window'`."""
        number = options.queries
        if not isinstance(number, int) or isinstance(number, bool) or number < 1 or cfg.d_model % number:
            wanted = number if isinstance(number, int) else AttentionOptions.queries
            raise ConfigError(
                f"compress_options queries={number!r} must be a whole number that divides d_model={cfg.d_model}, for example "
                f"{nearest(wanted, divisors(cfg.d_model))}"
            )
        if not isinstance(options.context, bool):
            raise ConfigError(f"compress_options context={options.context!r} must be true or false")
        if options.context and cfg.write_delay == 0:
            raise ConfigError(
                "compress_options context=true uses the tokens that came after the block, and write_delay=0 writes before "
                "they arrive; set write_delay='window'"
            )

    def forward(self, x: Tensor, recent: Tensor | None = None) -> Tensor:
        """[R, M, rate, D], recent [R, M, D] (with `context`) -> [R, M, D]."""
        seed = self.seed.to(x.dtype)
        if self.context is not None and recent is not None:
            seed = (seed + self.context(recent).unflatten(-1, seed.shape)).unsqueeze(2)
        key, value = self.project(x).unflatten(-1, (2, self.queries, -1)).unbind(-3)
        scores = (key * seed).sum(-1) * self.seed.shape[-1] ** -0.5 + self.place.to(x.dtype).T
        return self.out((scores.softmax(2).unsqueeze(-1) * value).sum(2).flatten(-2))
