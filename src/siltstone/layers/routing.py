"""Routing of a call: queries, and sums of routing keys by segment and sub-block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..bank.view import View
from ..cache.base import Router
from ..schedule.call import CallSchedule
from ..schedule.segments import held


@dataclass
class Lead:
    """What later layers need to share a layer's routing: its router, queries u [R, T, U], keys [R, M, U], sums `before` the
    call [R, J, U], and the views of its bank: one per segment chunk, or one for all.

    If keys are read from states, `keys` are those of the states after each segment chunk [R, S, J, U], and `online` computes
    the scores of the online memory at each token [R, T].
    """

    router: Router
    u: Tensor
    keys: Tensor
    before: Tensor
    online: Callable[[], Tensor] | None = None
    views: list[View] = field(default_factory=list)


class Routing:
    """Queries u [R, S, Q, U], scores `online` [R, S, Q] (softmax gates only) and key sums [R, S, J, U] of a call."""

    def __init__(self, lead: Lead, schedule: CallSchedule, softmax: bool):
        router, before, segment_chunks = lead.router, lead.before, schedule.shape[1]
        self.lead = lead
        self.u = schedule.query_take(lead.u).unflatten(1, (segment_chunks, -1))
        self.online: Tensor | None = None
        if lead.online is not None:
            self.sums = lead.keys
            self.online = schedule.query_take(lead.online()).unflatten(1, (segment_chunks, -1)) if softmax else None
            return
        keys = schedule.write_take(lead.keys).unflatten(1, (segment_chunks, schedule.slots)).to(before.dtype)
        if schedule.valid is not None:
            keys = keys * schedule.valid.unsqueeze(-1)
        goes_on = not schedule.dropped and bool(
            schedule.writes0.any()
        )  # the first segment chunk's segment holds writes of earlier calls
        if router.blocks == 1:
            running = keys.cumsum(2) if softmax else None
            self.sums = (keys.sum(2) if running is None else running[:, :, -1]).unsqueeze(2)
            if running is not None:
                scores = (self.u.unflatten(2, (schedule.slots, -1)) * running.unsqueeze(3).to(self.u.dtype)).sum(-1)
                if goes_on:
                    asked = self.u[:, :1].unflatten(2, (schedule.slots, -1))
                    scores = _first(scores, (asked * before[:, None, None].to(asked.dtype)).sum(-1))
                self.online = (scores / schedule.held.unsqueeze(-1)).flatten(2)
        else:
            member = schedule.host(schedule.places()[1][..., None] // router.block == np.arange(router.blocks)).to(keys.dtype)
            self.sums = member.transpose(-1, -2) @ keys
            if softmax:
                self.online = self._best(router, keys, member, before if goes_on else None, schedule)
        if goes_on:
            self.sums = _first(self.sums, before.unsqueeze(1))

    def _best(self, router: Router, keys: Tensor, member: Tensor, before: Tensor | None, schedule: CallSchedule) -> Tensor:
        """The online segment's score at each query: a smooth maximum over its sub-blocks as far as they are written."""
        rate, u = schedule.geo.rate, self.u
        late = torch.ones(schedule.slots, schedule.slots, dtype=torch.bool, device=u.device).triu(1).repeat_interleave(rate, 0)
        each = (u @ keys.to(u.dtype).transpose(-1, -2)).masked_fill(late, 0.0) @ member.to(u.dtype)
        if before is not None:
            each = _first(each, (u[:, 0] @ before.to(u.dtype).transpose(-1, -2)).unsqueeze(1))
        start, place = schedule.places()
        count = held(place, start[..., None], router.block, router.blocks)
        count = np.where(count.sum(-1, keepdims=True) > 0, count, 1)  # padding slots have no writes: avoid division by 0
        counts = schedule.host(np.repeat(count, rate, 2))
        return router.best((each / counts.clamp(min=1)).flatten(0, 1), (counts == 0).flatten(0, 1)).unflatten(0, u.shape[:2])


def _first(x: Tensor, more: Tensor) -> Tensor:
    """x [R, S, ...] with `more` [R, 1, ...] added to the first segment chunk."""
    return torch.cat([x[:, :1] + more, x[:, 1:]], 1)


def share_routing(view: View, lead: Lead, j: int) -> None:
    """Give the view of segment chunk j (or of all) the routing keys of the layer whose routing this layer shares."""
    shown = lead.views[-1] if view.seen is not None else lead.views[min(j, len(lead.views) - 1)]
    if shown.summary is not None:
        view.summary = shown.summary[:, : view.number]
        view.empty = None if shown.empty is None else shown.empty[:, : view.number]
