"""Exact: y = M(q), and the window also attends to the n writes with the largest surprise, sum over heads |v - M(k)|^2.

M is the memory just before the write, k and v the rule's key and value of it: tokens that the compressed memory predicts badly
are kept unchanged. Ties in surprise go to the most recent write; surprise only selects and carries no gradient. A write covers
`rate` tokens; their window keys and values are kept. The window's softmax includes them, at the distance of the last sink,
window + compress_every - 1 tokens, because their true distance has no bound. There are no checkpoints.
Source: arXiv 2505.23666 (a sparse cache of pairs that linear attention recalls badly; there they are not written as well), with
the loss of arXiv 2501.00663, eq. 12, for the surprise. State: `writes` * (rate * J * (K + V) + 2), at any length.
Cost: one more read of the memory per write, and rate * `writes` more keys for the window.

For: texts in which a few tokens must be recalled exactly, far beyond the window.
Can: return an unusual token exactly, at any distance, with a state of fixed size.
Cannot: keep what the memory predicted well when it was written; select by later queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..config import registry
from ..config.layer import SEEN, LayerConfig, whole
from ..errors import ConfigError
from ..memory.base import Memory
from ..ops.upcast import upcast
from ..state.tree import State
from .base import CachePolicy, ReadWeights, Router, RouterScores


@dataclass(frozen=True)
class ExactOptions:
    """writes: the largest number of writes that are kept, each of `rate` tokens."""

    writes: int = 64


class Exact(CachePolicy):
    """The writes with the largest surprise stay visible to the window's attention."""

    name: ClassVar[str] = "exact"
    Options = ExactOptions
    keeps: ClassVar[bool] = False
    routed: ClassVar[bool] = False

    @classmethod
    def check(cls, cfg: LayerConfig, options: ExactOptions) -> None:
        """Requires `window >= 1`, and a memory with keys and values (no recurrent network)."""
        whole("cache_options writes", options.writes, 1, SEEN)
        if not cfg.window:
            raise ConfigError(
                "cache='exact' requires window attention, and window=0; set a window of at least 1, or cache='none'"
            )
        check_predicts(cfg, "cache='exact'", "cache='gated'")

    def mix(self, router: Router, asked: RouterScores) -> ReadWeights:
        """Not used: there is nothing to route."""
        return ReadWeights()

    def empty(self, batch: int, like: Tensor) -> Kept:
        """A state without writes; `like`: a parameter that sets dtype and device."""
        cfg, n = self.cfg, self.options.writes
        return Kept(
            upcast(like.new_zeros(batch, n)) - torch.inf,
            torch.full((batch, n), -1, device=like.device),
            like.new_zeros(batch, n, cfg.rate, cfg.key_heads, cfg.key_dim),
            like.new_zeros(batch, n, cfg.rate, cfg.key_heads, cfg.val_dim),
        )


def check_predicts(cfg: LayerConfig, asked: str, instead: str) -> None:
    """ConfigError unless the memory has keys and values."""
    if registry.member("memory", cfg.memory).predicted is Memory.predicted:
        raise ConfigError(
            f"{asked} keeps what a memory predicts badly, and memory={cfg.memory!r} has no keys and values to predict; "
            f"choose memory='gated_delta', or {instead}"
        )


@dataclass
class Kept(State):
    """The writes that are kept, in order of time, after the empty places (surprise -inf, number -1, zeros).

    surprise [B, N], float32 or wider; number int64 [B, N] of the write in the row's life; key [B, N, rate, J, K] (not rotated)
    and value [B, N, rate, J, V] of its tokens.
    """

    narrow: ClassVar[tuple[str, ...]] = ("key", "value")

    surprise: Tensor
    number: Tensor
    key: Tensor
    value: Tensor

    def then(self, new: Kept) -> Kept:
        """An empty place, these writes, and then new ones [B, M]: N becomes 1 + N + M."""
        empty = Kept(
            torch.full_like(self.surprise[:, :1], -torch.inf),
            torch.full_like(self.number[:, :1], -1),
            torch.zeros_like(self.key[:, :1]),
            torch.zeros_like(self.value[:, :1]),
        )
        parts = {f: (getattr(empty, f), mine, getattr(new, f).to(mine.dtype)) for f, mine in vars(self).items()}
        return Kept(**{f: torch.cat(xs, 1) for f, xs in parts.items()})

    def at(self, index: Tensor) -> Kept:
        """The entries at index [B, n]."""
        offset = torch.arange(len(index), device=index.device).unsqueeze(1) * self.number.shape[1]
        flat = (index + offset).flatten()
        return self.map(lambda x: x.flatten(0, 1).index_select(0, flat).unflatten(0, index.shape))

    def and_one(self, new: Kept) -> Kept:
        """Add one write [B, 1] and drop the one with the least surprise; ties drop the oldest."""
        surprise = torch.cat([self.surprise, new.surprise], 1)
        place = torch.arange(self.number.shape[1], device=surprise.device)
        return self.then(new).at(1 + place + (place >= surprise.argmin(1, keepdim=True)))


def select(surprise: Tensor, most: int, first: Tensor, count: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Select the writes that are kept after each of several consecutive blocks.

    surprise [R, 1 + most + M]: one empty entry (-inf), then the writes kept before, then the new ones; block b makes the
    count[:, b] new writes from first[:, b] on, each [R, B], at most `longest`. Returns the candidates of each block [R, B, C],
    C = most + longest, as indices into `surprise`, in order of time; the number of writes of the block after which each candidate
    is dropped [R, B, C] (0: never kept; the c-th new write enters after c + 1 writes); and the indices [R, most] kept at the end,
    empty ones first.
    """
    device = surprise.device
    slot, order = torch.arange(longest, device=device), torch.arange(most + longest, device=device)
    held = (1 + order[:most]).expand(len(surprise), -1)
    blocks, until = [], []
    for begin, number in zip(first.unbind(1), count.unbind(1), strict=True):
        new = torch.where(slot < number[:, None], 1 + most + begin[:, None] + slot, 0)
        found = torch.cat([held, new], 1)
        mine = surprise.gather(1, found)
        other, own = mine.unsqueeze(2), mine.unsqueeze(1)
        beats = (other > own) | (other == own) & (order[:, None] > order)  # [R, C, C]: the first of a pair beats the second
        by = torch.cat([beats[:, :most].sum(1, keepdim=True), beats[:, most:]], 1).cumsum(1)  # after 0, 1, ... writes
        out = (by < most).sum(1).masked_fill(mine == -torch.inf, 0)
        stays, rank = (out > number[:, None]).byte().sort(dim=1, stable=True)
        held = found.gather(1, rank[:, longest:]) * stays[:, longest:]
        blocks.append(found)
        until.append(out)
    return torch.stack(blocks, 1), torch.stack(until, 1), held
