"""The decode step: one token for rows that are all at the same position. Same result as a chunk program, without a schedule.

A token at which a segment is sealed runs as a chunk program with a schedule.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..bank.view import View
from ..cache.base import ReadWeights, Router, RouterScores
from ..ops.bank_read import factor_sum
from ..schedule.context import Context, Token
from ..schedule.segments import held
from . import exact
from .parts import LayerState, Parts
from .reading import cached
from .routing import Lead, share_routing
from .window import ExtraKV, put_one


def step(
    mixer: Parts, x: Tensor, state: LayerState, after: LayerState, context: Context, token: Token
) -> tuple[Tensor | None, ExtraKV | None]:
    """x [B, 1, D] -> output of memory and bank [B, 1, H, V], and extra KV for the window; None: before the first write.

    Updates `after`.
    """
    geo, rule, position, before = mixer.geo, mixer.memory, token.position, token.before
    if token.writes > before:
        block = _leaving(mixer, x, state, position, before).unflatten(1, (-1, mixer.cfg.rate))
        c = mixer.compress(block, _window(mixer, x, state, position)) if mixer.compress.sees_window else mixer.compress(block)
        made = rule.inputs(c)
        for i in range(mixer.cfg.group):
            inputs = {k: v[:, i] for k, v in made.items()}
            shift = ((token.since - 1) * mixer.cfg.group + i) % rule.align(rule.options)
            if after.kept is not None and mixer.window is not None:
                surprise = exact.surprise(rule, inputs, after.online)
                number = torch.full((len(x),), before * mixer.cfg.group + i, device=x.device)
                after.kept = exact.one_more(mixer.window, after.kept, surprise, number, block[:, i])
            begins = None if rule.align(rule.options) == 1 else torch.full((len(x),), shift == 0, device=x.device)
            after.online = rule.step(inputs, begins, after.online)
            if after.bank is not None:
                after.bank = after.bank.step(rule, inputs, begins, None)
        if mixer.router is not None and state.summary is not None:
            key, block = mixer.router.keys(c), token.place // mixer.router.block
            key = key if mixer.cfg.group == 1 else key.mean(1, keepdim=True)
            pad = (0, 0, block, mixer.router.blocks - 1 - block)
            after.summary = state.summary + (key if mixer.router.blocks == 1 else F.pad(key, pad))
    if geo.ring_input:
        after.input = put_one(state.input, x, position % geo.ring_input, context.inplace)
    if not token.writes:
        return None, None
    further = None if after.kept is None else exact.now(geo, after.kept, torch.full((1,), position, device=x.device))
    return _read(mixer, x, after, token, context), further


def _window(mixer: Parts, x: Tensor, state: LayerState, position: int) -> Tensor:
    """The mean of the window's tokens for each write of this update [B, group, D]."""
    geo = mixer.geo
    slots = torch.tensor(
        [t % geo.ring_input for t in range(position - geo.window + 1, position)], dtype=torch.long, device=x.device
    )
    recent = torch.cat([state.input.index_select(1, slots), x], 1).mean(1, keepdim=True)
    return recent.expand(-1, mixer.cfg.group, -1)


def _leaving(mixer: Parts, x: Tensor, state: LayerState, position: int, write: int) -> Tensor:
    """The tokens [B, every, D] of the update that this token triggers."""
    geo = mixer.geo
    if geo.rate == 1:
        return state.input[:, (position - geo.delay) % geo.ring_input].unsqueeze(1) if geo.delay else x
    tokens = [geo.sinks + write * geo.rate + i for i in range(geo.rate)]
    slots = torch.tensor([t % geo.ring_input for t in tokens if t < position], device=x.device)
    old = state.input.index_select(1, slots)
    return old if geo.delay else torch.cat([old, x], 1)


def _read(mixer: Parts, x: Tensor, after: LayerState, token: Token, context: Context) -> Tensor:
    rule, router = mixer.memory, mixer.router
    z = rule.queries(x).transpose(1, 2)
    own = rule.read_factors(after.online)
    mix, view = ReadWeights(), None
    if router is not None and after.summary is not None:
        context.lead = Lead(router, router.queries(x), x, after.summary)
    if after.bank is not None and token.segment:
        view = after.bank.now(router, token.segment, context.segments(mixer.geo))
        if router is not None and context.lead is not None:
            if router.leads:
                context.lead.views.append(view)
            else:
                share_routing(view, context.lead, 0)
            mix = mixer.cache.mix(router, _asked(router, context.lead, view, token.place))
            after.bank = after.bank.used(mix, None, 1)
    gate = None if mix.online is None else mix.online.transpose(1, 2).unsqueeze(-1).to(z.dtype)
    out = z
    for i, matrices in enumerate(own):
        part = out @ matrices.to(z.dtype)
        if mixer.cache.blends and not rule.read_is_linear and view is not None and mix.gates is not None:
            part = (part if gate is None else gate * part) + factor_sum(out, view.factors[i], mix.gates)
        out = rule.activation(i, part, z)
    if view is not None and (rule.read_is_linear or not mixer.cache.blends):
        out = (out if gate is None else gate * out) + cached(mixer, z, view, mix)
    return out.transpose(1, 2)


def _asked(router: Router, lead: Lead, view: View, place: int) -> RouterScores:
    assert view.summary is not None
    keys, online = lead.router, None
    if router.softmax:
        means, empty = lead.before / (place + 1), None  # also beyond the first segment, which begins at place 0
        if keys.blocks > 1:
            count = held(np.array(place), np.array(0), keys.block, keys.blocks)
            means = lead.before / torch.from_numpy(np.maximum(count, 1)).to(lead.u.device).unsqueeze(-1)
            empty = torch.from_numpy(count == 0).to(lead.u.device)[None, None] if (count == 0).any() else None
        online = keys.scores(lead.u, means.unsqueeze(1), empty).squeeze(-1)
    hidden = None if view.hidden is None else view.hidden.unsqueeze(1)
    return RouterScores(keys.scores(lead.u, view.summary, view.empty), online, hidden, view.age, view.newest_last)
