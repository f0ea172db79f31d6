"""Routing on token tasks, where the place of each answer is known: hit rate of a sparse choice, and oracle routing.

Oracle routing replaces the scores of checkpoints at questions: 1 for the segment that holds the answer, -1 for the others. At
other tokens the learnt scores stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache.base import CachePolicy, ReadWeights, Router, RouterScores
from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..models.lm import LM
from .tasks.base import UNSCORED, TokenBatch

REPLACED = ("queries", "scores", "mix")  # methods of routers and policies


def locatable(cfg: LayerConfig) -> bool:
    """Whether checkpoint n is segment n of the text: constant segments, no budget, one write a token, gates without softmax."""
    return not cfg.bounded and cfg.segments == "constant" and cfg.rate == 1 and cfg.gate != "softmax" and not cfg.sinks


def answers(made: TokenBatch) -> np.ndarray:
    """int64 [B, T]: the position of the answer to the question at each place; -1 where there is none or it is unknown."""
    asked = (made.targets != UNSCORED) & (made.distance > 0)
    return np.where(asked, np.arange(made.ids.shape[1]) - made.distance, -1)


class RoutingWatch:
    """Follows the routing of a model, and replaces it if `oracle`. Call `tell` before each call of the model, `close` at the end.

    Only layers for which `locatable` is true are followed. Raises ConfigError if `oracle` and there is none.
    """

    def __init__(self, model: LM, oracle: bool = False) -> None:
        self.oracle = oracle
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._told: Tensor | None = None
        self._wanted = torch.empty(0)
        self._before: list[tuple[object, dict[str, Any]]] = []
        self.layers = 0
        for part in model.modules():
            router, policy = getattr(part, "router", None), getattr(part, "cache", None)
            if isinstance(router, Router) and isinstance(policy, CachePolicy) and router.leads and locatable(policy.cfg):
                self._follow(router, policy)
                self.layers += 1
        if oracle and not self.layers:
            raise ConfigError("oracle routing needs a layer with routing, segments='constant', rate=1 and no max_checkpoints")

    def close(self) -> None:
        """Leaves the model as it was before."""
        while self._before:
            owner, before = self._before.pop()
            for name in REPLACED:
                if name in vars(owner):
                    delattr(owner, name)
            vars(owner).update(before)

    def tell(self, where: np.ndarray | None, first: int = 0) -> None:
        """where [B, T]: positions of answers (`answers`) of the next call's tokens; first: the position of their first one."""
        if where is None:
            self._told = None
            return
        at = np.broadcast_to(first + np.arange(where.shape[1]), where.shape)
        self._told = torch.from_numpy(np.stack([where, at], -1)).float()

    def take(self) -> Iterator[tuple[int, int, float]]:
        """(row, position, whether the choice has the answer's segment), for each question whose answer is sealed and each layer
        that chooses; what is taken is forgotten."""
        found, self.found = self.found, []
        for rows, places, hits in found:
            seen: dict[tuple[int, int], float] = {}
            for row, place, hit in zip(rows.tolist(), places.tolist(), hits.tolist(), strict=True):
                seen[(row, place)] = float(hit)  # a call may hold a token more than once
            yield from ((row, place, hit) for (row, place), hit in seen.items())

    def _follow(self, router: Router, policy: CachePolicy) -> None:
        cfg = policy.cfg
        queries, scores, mix = router.queries, router.scores, policy.mix
        delay = cfg.delay

        def queries_told(x: Tensor) -> Tensor:
            u = queries(x)
            told = u.new_full((*u.shape[:-1], 2), -1.0) if self._told is None else self._told.to(u)
            return torch.cat([u, told], -1)

        def scores_told(u: Tensor, summary: Tensor, empty: Tensor | None) -> Tensor:
            u, place, at = u[..., :-2].contiguous(), u[..., -2].detach(), u[..., -1].detach()
            learnt = scores(u, summary, empty)
            wanted = torch.where(place >= 0, (place / cfg.segment).floor(), -1.0)
            sealed = ((at + 1 - delay) / cfg.segment).ceil() - 1  # checkpoints at this token
            self._wanted = torch.stack([wanted, at, sealed], -1)
            if not self.oracle:
                return learnt
            segments = torch.arange(summary.shape[1], device=u.device)
            ruled = torch.where(segments == wanted[..., None], 1.0, -1.0).to(learnt)
            return torch.where(wanted[..., None] >= 0, ruled, learnt)

        def mix_seen(router: Router, asked: RouterScores) -> ReadWeights:
            found = mix(router, asked)
            if policy.sparse and self._told is not None:
                self._note(asked, found.index)
            return found

        for owner in (router, policy):
            self._before.append((owner, {name: x for name, x in vars(owner).items() if name in REPLACED}))
        router.queries, router.scores, policy.mix = queries_told, scores_told, mix_seen  # type: ignore[method-assign]

    def _note(self, asked: RouterScores, index: Tensor | None) -> None:
        shape, rows = asked.scores.shape, len(self._told) if self._told is not None else 0
        wanted, at, sealed = self._wanted.reshape(*shape[:2], 3).unbind(-1)
        number = torch.full_like(wanted, shape[2])
        if asked.hidden is not None:
            number = (~asked.hidden).sum(-1).to(wanted).expand_as(wanted)
        hit = torch.ones_like(wanted, dtype=torch.bool) if index is None else (index == wanted[..., None]).any(-1)
        row = torch.arange(rows, device=wanted.device).repeat_interleave(wanted.numel() // rows).reshape(shape[:2])
        keep = (wanted >= 0) & (wanted < sealed) & (number == sealed)  # other slots only fill the last chunk
        self.found.append((row[keep].cpu(), at[keep].long().cpu(), hit[keep].cpu()))


def watched(model: object, routing: str) -> RoutingWatch | None:
    """A watch for a model of an arm with this routing; None if no layer can be followed."""
    if not isinstance(model, LM):
        return None
    watch = RoutingWatch(model, routing == "oracle")
    return watch if watch.layers else None
