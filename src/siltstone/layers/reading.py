"""Reads of memory and bank for the queries of a call: [R, S, H, Q, V].

If the bank has one view for all segment chunks and the memory has one read factor, all segment chunks are read together.
Otherwise (logarithmic segments, a budget, memories of several read factors) they are read one after the other: each reads the
checkpoints that it sees, and then the segment that ends with it is sealed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..bank.base import Bank
from ..bank.read import dense, sparse
from ..bank.sealing import Sealing
from ..bank.view import View
from ..cache.base import ReadWeights, RouterScores
from ..memory.base import ScanOutput
from ..ops.bank_read import by_segment_chunk, factor_sum
from .parts import Parts
from .routing import Routing, share_routing

FEW = 32  # up to this number of checkpoints, gates of all segment chunks are computed at once, although half are hidden


def with_bank(
    mixer: Parts, written: ScanOutput, z: Tensor, bank: Bank, call: Sealing, route: Routing | None
) -> tuple[Tensor, Bank]:
    """The outputs for z [R, S, H, Q, in], and the bank after the call."""
    bank = bank.begin(call)
    view = bank.whole(call) if mixer.memory.read_is_linear or mixer.cache.sparse else None
    if view is not None:
        _led(mixer, view, route, 0)
        return _together(mixer, online(mixer, written, z), z, view, route), bank.end(call)
    views: list[View] = []
    mixes: list[ReadWeights | None] = []
    for j in range(z.shape[1]):
        views.append(bank.view(call, j))
        _led(mixer, views[j], route, j)
        mixes.append(_mix(mixer, views[j], route, j))
        bank = bank.append(call, j, mixes[j])
    return _apart(mixer, written, z, views, mixes), bank.end(call)


def _together(mixer: Parts, own: Tensor, z: Tensor, view: View, route: Routing | None) -> Tensor:
    """All segment chunks with one view; own [R, S, H, Q, V] is the output of the online memory."""
    if not view.number:
        return own
    if route is None:
        return own + z @ _sums(view).to(z.dtype)
    picks = mixer.cache.sparse and not _every(mixer, view)
    return (_picked if picks else _gated)(mixer, own, z, view, route)


def _every(mixer: Parts, view: View) -> bool:
    """Whether the choice covers all checkpoints, and reading them all at once costs less than sorting the pairs."""
    return view.number <= mixer.cache.reads and mixer.memory.read_is_linear


def _led(mixer: Parts, view: View, route: Routing | None, j: int) -> None:
    """Store the view of segment chunk j for layers that share this routing, or give it the routing keys of the leading layer."""
    if route is not None and mixer.router is not None and mixer.router.leads:
        route.lead.views.append(view)
    elif route is not None:
        share_routing(view, route.lead, j)


def online(mixer: Parts, written: ScanOutput, z: Tensor) -> Tensor:
    """The output of the online memory."""
    out = z
    for i in range(mixer.memory.factors_count):
        out = mixer.memory.activation(i, _through(mixer, written, i, out), z)
    return out


def cached(mixer: Parts, z: Tensor, view: View, mix: ReadWeights) -> Tensor:
    """The checkpoints' part of the output of one segment chunk: [R, H, Q, V]."""
    memory = mixer.memory
    if mix.index is not None:
        return sparse(memory, z.transpose(1, 2), view.held, mix).transpose(1, 2)
    if mix.gates is not None:
        return dense(memory, z, view.factors, mix.gates)
    shown = None if view.hidden is None else (~view.hidden).to(view.factors[0].dtype)
    if memory.read_is_linear:
        weights = view.factors[0] if shown is None else view.factors[0] * shown[:, None, :, None, None]
        return z @ weights.sum(2).to(z.dtype)
    ones = z.new_ones(1) if shown is None else shown[:, None, None]
    return dense(memory, z, view.factors, ones.expand(z.shape[0], z.shape[2], z.shape[1], view.number))


def _through(mixer: Parts, written: ScanOutput, factor: int, z: Tensor) -> Tensor:
    """One read factor of the online memory, for parallel and sequential scans: [R, S, H, Q, ...]."""
    groups = next(iter(written.ends.leaves()))[1].shape[:2]
    answers = written.read(factor, z.flatten(0, 1).unflatten(0, groups), mixer.cfg.group)
    return answers.flatten(0, 1).unflatten(0, z.shape[:2])


def _mix(mixer: Parts, view: View, route: Routing | None, segment_chunk: slice | int) -> ReadWeights | None:
    """Gates over a view's checkpoints, for one segment chunk, or for a slice of them (then rows are [R * S]).

    None: there are no checkpoints.
    """
    if not view.number:
        return None
    if mixer.router is None or route is None:
        return ReadWeights()
    assert view.summary is not None
    router = mixer.router
    if isinstance(segment_chunk, int):
        scores = route.lead.router.scores(route.u[:, segment_chunk], view.summary, view.empty)
        hidden = None if view.hidden is None else view.hidden.unsqueeze(1)
        own = None if route.online is None else route.online[:, segment_chunk]
        every = _every(mixer, view)
        return mixer.cache.mix(router, RouterScores(scores, own, hidden, view.age, view.newest_last, every=every))
    assert view.seen is not None
    u, seen = route.u[:, segment_chunk], view.seen[:, segment_chunk]
    width = int(seen.max())
    empty = None if view.empty is None else view.empty[:, :width]
    scores = route.lead.router.scores(u.flatten(1, 2), view.summary[:, :width], empty)
    hidden = None
    if (seen != width).any():
        hidden = torch.from_numpy(np.arange(width) >= seen.reshape(-1, 1, 1)).to(u.device)

    def age() -> Tensor:
        return torch.from_numpy(seen.reshape(-1, 1, 1) - np.arange(width)).to(u.device)

    own = None if route.online is None else route.online[:, segment_chunk].flatten(0, 1)
    scores, every = scores.unflatten(1, u.shape[1:3]).flatten(0, 1), _every(mixer, view)
    return mixer.cache.mix(router, RouterScores(scores, own, hidden, age, every=every))


def _added(found: Tensor, gate: Tensor | None, own: Tensor) -> Tensor:
    """found + gate * own [R, S, H, Q, V], gate [R * S, Q, H] or None: 1."""
    if gate is None:
        return found + own
    return torch.addcmul(found, gate.unflatten(0, own.shape[:2]).transpose(2, 3).unsqueeze(-1).to(own.dtype), own)


def _picked(mixer: Parts, own: Tensor, z: Tensor, view: View, route: Routing) -> Tensor:
    """Reads the checkpoints that each token selects."""
    shape = (z.shape[0], z.shape[1] * z.shape[3])
    mix = _mix(mixer, view, route, slice(None))
    assert mix is not None and mix.index is not None and mix.gates is not None
    flat = ReadWeights(None, mix.gates.reshape(*shape, *mix.gates.shape[2:]), mix.index.reshape(*shape, -1))
    found = sparse(mixer.memory, z.transpose(2, 3).flatten(1, 2), view.held, flat)
    return _added(found.unflatten(1, (z.shape[1], -1)).transpose(2, 3), mix.online, own)


def _gated(mixer: Parts, own: Tensor, z: Tensor, view: View, route: Routing) -> Tensor:
    """Reads all checkpoints with their gates, one segment chunk after the other."""
    assert view.seen is not None
    widths = view.seen.max(0).tolist()
    step = z.shape[1] if view.number <= FEW else 1
    parts: list[Tensor] = []
    for j in range(0, z.shape[1], step):
        segment_chunk = slice(j, j + step)
        out = own[:, segment_chunk]
        if any(widths[segment_chunk]):
            mix = _mix(mixer, view, route, segment_chunk)
            assert mix is not None and mix.gates is not None
            gates = mix.gates.unflatten(0, out.shape[:2]).transpose(2, 3)
            if mixer.cache.observer is not None:
                mixer.cache.observer(z[:, segment_chunk], view.factors[0][:, :, : gates.shape[-1]], gates)
            out = _added(by_segment_chunk(z[:, segment_chunk], view.factors[0], gates, widths[segment_chunk]), mix.online, out)
        parts.append(out)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _sums(view: View) -> Tensor:
    """[R, S, H, K, V]: the sum of the checkpoints that each segment chunk sees."""
    matrices, seen = view.factors[0], view.seen
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


def _apart(mixer: Parts, written: ScanOutput, z: Tensor, views: list[View], mixes: list[ReadWeights | None]) -> Tensor:
    """Each segment chunk with its own view."""
    memory = mixer.memory
    if not mixer.cache.blends or memory.read_is_linear:
        own, asked = online(mixer, written, z).unbind(1), z.unbind(1)
        parts = [
            o if m is None else _gate(m.online, o) + cached(mixer, q, v, m)
            for o, q, v, m in zip(own, asked, views, mixes, strict=True)
        ]
        return torch.stack(parts, 1)
    out = z
    for i in range(memory.factors_count):
        own, asked = _through(mixer, written, i, out).unbind(1), out.unbind(1)
        parts = [
            o if m is None or m.gates is None else _gate(m.online, o) + factor_sum(q, v.factors[i], m.gates)
            for o, q, v, m in zip(own, asked, views, mixes, strict=True)
        ]
        out = memory.activation(i, torch.stack(parts, 1), z)
    return out


def _gate(gate: Tensor | None, out: Tensor) -> Tensor:
    """out [R, H, Q, V] times gate [R, Q, H] (None: 1)."""
    return out if gate is None else gate.transpose(1, 2).unsqueeze(-1).to(out.dtype) * out
