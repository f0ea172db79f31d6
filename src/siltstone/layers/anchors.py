"""router="anchor:m" in a call: the keys of the states that it seals, and the scores of the online memory at every token."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..cache.anchors import AnchorRouter
from ..memory.base import ScanOutput
from ..schedule.call import CallSchedule
from ..state.tree import State
from . import reading
from .parts import Parts
from .routing import Lead


def lead(mixer: Parts, x: Tensor, written: ScanOutput, ends: State, before: Tensor, schedule: CallSchedule) -> Lead:
    """The routing of a layer for x [R, T, D]; ends [R, S, ...]: its states after each segment chunk."""
    router, memory = mixer.router, mixer.memory
    assert isinstance(router, AnchorRouter)
    u, (runs, segment_chunks) = router.queries(x), schedule.shape

    @cache
    def online() -> Tensor:
        asked = schedule.query_take(u).unflatten(1, (segment_chunks, -1))
        each = []
        for query in router.asked(memory).unbind(1):
            z = query[:, None].expand(runs, segment_chunks, -1, asked.shape[2], -1)
            answers = reading.online(mixer, written, z).transpose(2, 3).flatten(3)
            each.append((asked * router.keys(answers.to(x.dtype))).sum(-1))
        back, _ = schedule.query_back
        return back(router.best(torch.stack(each, -1), None).flatten(1))

    return Lead(router, u, router.read(memory, memory.read_factors(ends)), before, online)
