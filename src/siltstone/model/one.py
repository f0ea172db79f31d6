"""One token for rows that all stand at the same place: the same result as the planned way, with nothing to plan.

The token at which a segment is sealed takes the planned way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache.base import Mix
from ..cache.logarithmic import Slots
from ..cache.read import stage_sum
from .context import Context
from .reading import cached
from .window import put

if TYPE_CHECKING:
    from .mixer import LayerState, Mixer


def possible(mixer: Mixer, context: Context) -> bool:
    """Whether this call is such a token, and seals nothing."""
    if context.tick is None:
        return False
    position, phase = context.tick
    before, after = (mixer.geo.written(n) for n in (position, position + 1))
    return bool(mixer.geo.sealed(before, phase) == mixer.geo.sealed(after, phase))


def memory(mixer: Mixer, x: Tensor, state: LayerState, after: LayerState, context: Context) -> Tensor | None:
    """x [B, 1, D] -> what memory and bank say [B, 1, H, V], or None before the first write. Fills in `after`."""
    assert context.tick is not None
    geo, rule = mixer.geo, mixer.memory
    position, phase = context.tick
    before, writes = int(geo.written(position)), int(geo.written(position + 1))
    segment = int(geo.sealed(writes, phase))
    since = writes - int(geo.opens(segment, phase))
    if writes > before:
        c = mixer.compress(_leaving(mixer, x, state, position, before).unsqueeze(1))
        inputs = {k: v.squeeze(1) for k, v in rule.inputs(c).items()}
        shift = (since - 1) % rule.align(rule.options)
        after.online = rule.step(inputs, shift, state.online)
        if isinstance(state.bank, Slots):
            after.bank = state.bank.step(rule, inputs, shift)
        if mixer.router is not None and state.summary is not None:
            after.summary = state.summary + mixer.router.keys(c).squeeze(1)
    if geo.ring_input:
        after.input = put(state.input, x, position % geo.ring_input, context.donate)
    return _read(mixer, x, after, segment, phase, since) if writes else None


def _leaving(mixer: Mixer, x: Tensor, state: LayerState, position: int, write: int) -> Tensor:
    """The tokens [B, rate, D] of the write that this token brings about."""
    geo = mixer.geo
    if geo.rate == 1:
        return state.input[:, (position - geo.delay) % geo.ring_input].unsqueeze(1) if geo.delay else x
    tokens = [geo.sinks + write * geo.rate + i for i in range(geo.rate)]
    slots = torch.tensor([t % geo.ring_input for t in tokens if t < position], device=x.device)
    old = state.input.index_select(1, slots)
    return old if geo.delay else torch.cat([old, x], 1)


def _read(mixer: Mixer, x: Tensor, after: LayerState, segment: int, phase: int, since: int) -> Tensor:
    rule = mixer.memory
    z = rule.queries(x).transpose(1, 2)
    own = rule.stages(after.online)
    mix, view = Mix(), None
    if after.bank is not None and segment:
        view = after.bank.now(rule, segment, phase, mixer.geo.per_segment)
        if mixer.router is not None and after.summary is not None and view.summary is not None:
            u = mixer.router.queries(x)
            scores = u @ view.summary.to(u.dtype).transpose(-1, -2)
            online = (u * (after.summary / since).to(u.dtype).unsqueeze(1)).sum(-1) if mixer.router.softmax else None
            hidden = None if view.hidden is None else view.hidden.unsqueeze(1)
            mix = mixer.cache.mix(mixer.router, scores, online, hidden, view.newest_last)
    gate = None if mix.online is None else mix.online.transpose(1, 2).unsqueeze(-1).to(z.dtype)
    out = z
    for i, matrices in enumerate(own):
        part = out @ matrices.to(z.dtype)
        if mixer.cache.blends and not rule.read_is_linear and view is not None and mix.gates is not None:
            part = (part if gate is None else gate * part) + stage_sum(out, view.stages[i], mix.gates)
        out = rule.join(i, part, z)
    if view is not None and (rule.read_is_linear or not mixer.cache.blends):
        out = (out if gate is None else gate * out) + cached(mixer, z, view, mix)
    return out.transpose(1, 2)
