"""What memory and bank answer to the queries of a call: [R, S, H, Q, V].

With a constant bank and a matrix that is read as it is, all pieces share one view of the bank and are answered
together; otherwise (logarithmic slots, memories of several stages) each piece asks the checkpoints that it sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..cache.bank import Bank, Sealing, View
from ..cache.base import Mix, Router
from ..cache.logarithmic import Slots
from ..cache.read import by_piece, chosen, dense, stage_sum
from ..memory.base import Written
from .plan import Plan

if TYPE_CHECKING:
    from .mixer import Mixer

FEW = 32  # checkpoints up to which the gates of all pieces are made at once, though half of them are hidden


class Routing:
    """Routing queries u [R, S, Q, U], scores `online` [R, S, Q] (softmax gates only) and key sums [R, S, U] of a call."""

    def __init__(self, router: Router, x: Tensor, c: Tensor, before: Tensor, plan: Plan):
        runs, pieces = plan.shape
        self.u = plan.query_take(router.queries(x)).unflatten(1, (pieces, -1))
        keys = plan.write_take(router.keys(c)).unflatten(1, (pieces, plan.slots)).to(before.dtype)
        if plan.valid is not None:
            keys = keys * plan.valid.unsqueeze(-1)
        self.online: Tensor | None = None
        running = keys.cumsum(2) if router.softmax else None
        self.sums = keys.sum(2) if running is None else running[:, :, -1]
        goes_on = not plan.dropped and bool(plan.writes0.any())  # the first piece's segment holds writes of earlier calls
        if goes_on:
            self.sums = _first(self.sums, before.unsqueeze(1))
        if running is not None:
            scores = (self.u.unflatten(2, (plan.slots, -1)) * running.unsqueeze(3).to(self.u.dtype)).sum(-1)
            if goes_on:
                asked = self.u[:, :1].unflatten(2, (plan.slots, -1))
                scores = _first(scores, (asked * before[:, None, None, None].to(asked.dtype)).sum(-1))
            self.online = (scores / plan.held.unsqueeze(-1)).flatten(2)


def _first(x: Tensor, more: Tensor) -> Tensor:
    """x [R, S, ...] with `more` [R, 1, ...] added to the first piece."""
    return torch.cat([x[:, :1] + more, x[:, 1:]], 1)


def with_bank(
    mixer: Mixer, written: Written, z: Tensor, bank: Bank | Slots, call: Sealing, route: Routing | None
) -> tuple[Tensor, Bank | Slots]:
    """The answers to z [R, S, H, Q, in], and the bank after the call."""
    together = isinstance(bank, Bank) and (mixer.memory.read_is_linear or mixer.cache.sparse)
    views, after = bank.advance(call, together) if isinstance(bank, Bank) else bank.advance(call)
    if not together:
        return _apart(mixer, written, z, views, route), after
    own, view = online(mixer, written, z), views[0]
    if not view.number:
        return own, after
    if route is None:
        return own + z @ _sums(view).to(z.dtype), after
    if mixer.cache.sparse:
        return _picked(mixer, own, z, view, route), after
    return _gated(mixer, own, z, view, route), after


def online(mixer: Mixer, written: Written, z: Tensor) -> Tensor:
    """What the memory itself answers."""
    out = z
    for i in range(mixer.memory.stages_count):
        out = mixer.memory.join(i, _stage(written, i, out), z)
    return out


def cached(mixer: Mixer, z: Tensor, view: View, mix: Mix) -> Tensor:
    """Checkpoints' part of one piece: [R, H, Q, V]."""
    memory = mixer.memory
    if mix.index is not None:
        return chosen(memory, z.transpose(1, 2), view.stages, mix).transpose(1, 2)
    if mix.gates is not None:
        return dense(memory, z, view.stages, mix.gates)
    shown = None if view.hidden is None else (~view.hidden).to(view.stages[0].dtype)
    if memory.read_is_linear:
        weights = view.stages[0] if shown is None else view.stages[0] * shown[:, None, :, None, None]
        return z @ weights.sum(2).to(z.dtype)
    ones = z.new_ones(1) if shown is None else shown[:, None, None]
    return dense(memory, z, view.stages, ones.expand(z.shape[0], z.shape[2], z.shape[1], view.number))


def _stage(written: Written, stage: int, z: Tensor) -> Tensor:
    """One stage of the online memory, whatever way its pieces were scanned: [R, S, H, Q, ...]."""
    groups = next(iter(written.ends.leaves()))[1].shape[:2]
    return written.read(stage, z.flatten(0, 1).unflatten(0, groups)).flatten(0, 1).unflatten(0, z.shape[:2])


def _mix(mixer: Mixer, view: View, route: Routing, piece: slice) -> Mix:
    """Gates of some pieces over the checkpoints that any of them sees; rows and pieces are one axis [R * S]."""
    assert mixer.router is not None and view.summary is not None and view.seen is not None
    u, seen = route.u[:, piece], view.seen[:, piece]
    width = int(seen.max())
    scores = u.flatten(1, 2) @ view.summary[:, :width].to(u.dtype).transpose(-1, -2)
    hidden = None
    if (seen != width).any():
        hidden = torch.from_numpy(np.arange(width) >= seen.reshape(-1, 1, 1)).to(u.device)
    own = None if route.online is None else route.online[:, piece].flatten(0, 1)
    return mixer.cache.mix(mixer.router, scores.unflatten(1, u.shape[1:3]).flatten(0, 1), own, hidden, True)


def _added(found: Tensor, gate: Tensor | None, own: Tensor) -> Tensor:
    """found + gate * own [R, S, H, Q, V], gate [R * S, Q, H] or None: 1."""
    if gate is None:
        return found + own
    return torch.addcmul(found, gate.unflatten(0, own.shape[:2]).transpose(2, 3).unsqueeze(-1).to(own.dtype), own)


def _picked(mixer: Mixer, own: Tensor, z: Tensor, view: View, route: Routing) -> Tensor:
    """Each token's own choice of checkpoints."""
    shape = (z.shape[0], z.shape[1] * z.shape[3])
    mix = _mix(mixer, view, route, slice(None))
    assert mix.index is not None and mix.gates is not None
    flat = Mix(None, mix.gates.reshape(*shape, *mix.gates.shape[2:]), mix.index.reshape(*shape, -1))
    found = chosen(mixer.memory, z.transpose(2, 3).flatten(1, 2), view.stages, flat)
    return _added(found.unflatten(1, (z.shape[1], -1)).transpose(2, 3), mix.online, own)


def _gated(mixer: Mixer, own: Tensor, z: Tensor, view: View, route: Routing) -> Tensor:
    """All checkpoints under their gates, piece after piece."""
    assert view.seen is not None
    widths = view.seen.max(0).tolist()
    step = z.shape[1] if view.number <= FEW else 1
    parts: list[Tensor] = []
    for j in range(0, z.shape[1], step):
        piece = slice(j, j + step)
        out = own[:, piece]
        if any(widths[piece]):
            mix = _mix(mixer, view, route, piece)
            assert mix.gates is not None
            gates = mix.gates.unflatten(0, out.shape[:2]).transpose(2, 3)
            out = _added(by_piece(z[:, piece], view.stages[0], gates, widths[piece]), mix.online, out)
        parts.append(out)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _sums(view: View) -> Tensor:
    """[R, S, H, K, V]: the sum of the checkpoints that each piece sees."""
    matrices, seen = view.stages[0], view.seen
    assert seen is not None
    least = int(seen.min())
    total = matrices[:, :, :least].sum(2, keepdim=True)
    if (seen == least).all():
        return total.transpose(1, 2)
    running = torch.cat([total, matrices[:, :, least:]], 2).cumsum(2).transpose(1, 2)
    index = torch.from_numpy(seen - least).to(matrices.device)
    if (seen == seen[:1]).all():
        return running.index_select(1, index[0])
    return running[torch.arange(len(seen), device=matrices.device)[:, None], index]


def _apart(mixer: Mixer, written: Written, z: Tensor, views: list[View], route: Routing | None) -> Tensor:
    """Each piece with a view of its own."""
    memory, mixes = mixer.memory, _mixes(mixer, route, views)
    if not mixer.cache.blends or memory.read_is_linear:
        own, asked = online(mixer, written, z).unbind(1), z.unbind(1)
        parts = [
            o if m is None else _gate(m.online, o) + cached(mixer, q, v, m)
            for o, q, v, m in zip(own, asked, views, mixes, strict=True)
        ]
        return torch.stack(parts, 1)
    out = z
    for i in range(memory.stages_count):
        own, asked = _stage(written, i, out).unbind(1), out.unbind(1)
        parts = [
            o if m is None or m.gates is None else _gate(m.online, o) + stage_sum(q, v.stages[i], m.gates)
            for o, q, v, m in zip(own, asked, views, mixes, strict=True)
        ]
        out = memory.join(i, torch.stack(parts, 1), z)
    return out


def _mixes(mixer: Mixer, route: Routing | None, views: list[View]) -> list[Mix | None]:
    """Gates of each piece; None where it sees no checkpoint."""
    if mixer.router is None or route is None:
        return [Mix() if v.number else None for v in views]
    mixes: list[Mix | None] = []
    for j, (view, u) in enumerate(zip(views, route.u.unbind(1), strict=True)):
        if not view.number or view.summary is None:
            mixes.append(None)
            continue
        scores = u @ view.summary.to(u.dtype).transpose(-1, -2)
        hidden = None if view.hidden is None else view.hidden.unsqueeze(1)
        own = None if route.online is None else route.online[:, j]
        mixes.append(mixer.cache.mix(mixer.router, scores, own, hidden, view.newest_last))
    return mixes


def _gate(gate: Tensor | None, out: Tensor) -> Tensor:
    """gate [R, Q, H] or None on out [R, H, Q, V]."""
    return out if gate is None else gate.transpose(1, 2).unsqueeze(-1).to(out.dtype) * out
