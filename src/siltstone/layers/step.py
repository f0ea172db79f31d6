"""One token a row in a memory layer: window, memory and bank, in tensors alone, for rows at positions of their own.

The same result as `Mixer.forward`. Sealing is a program of its own (`seal`), which the host runs before the token's where some
row seals a segment.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..bank.base import Bank
from ..bank.codec import unpack
from ..bank.sealing import RowSealer, Sealed, Sealer
from ..bank.view import View
from ..cache.anchors import AnchorRouter
from ..cache.base import ReadWeights, Router, RouterScores
from ..memory.base import Inputs
from ..ops import bank_read
from ..schedule.step import StepSchedule, Turn, keep, kept
from . import exact, pairs
from .context import StepContext, put
from .parts import LayerState, Parts
from .routing import Lead, share_routing
from .window import ExtraKV


def seal(mixer: Parts, state: LayerState, by: StepSchedule) -> LayerState:
    """The state of rows of which some (`by.seals`) seal their online segment."""
    memory, online = mixer.memory, state.online
    if state.bank is None or not by.seals.any():
        return state
    first = next(x for _, x in online.leaves())
    sealer = RowSealer(memory, mixer.router, mixer.budget, by.segments, first.dtype, first.device)
    return sealed(mixer, state, sealer, Sealed.known(sealer, by.sealed, by.seals, online, state.summary))


def sealed(mixer: Parts, state: LayerState, by: Sealer, what: Sealed) -> LayerState:
    """The state of rows of which some seal what their memory holds, and begin a segment."""
    assert state.bank is not None
    bank, online = state.bank.seal(by, what), state.online
    if mixer.cfg.start == "restart":
        online = kept(what.now, mixer.memory.init(len(what.now)), online)
    summary = None if state.summary is None else keep(what.now, torch.zeros_like(state.summary), state.summary)
    return replace(state, bank=bank, online=online, summary=summary)


def step(
    mixer: Parts, x: Tensor, state: LayerState, context: StepContext, empty: Tensor | None
) -> tuple[Tensor | None, ExtraKV | None, LayerState]:
    """x [B, 1, D] -> what memory and bank say [B, 1, H, V] (None: nothing is written yet), what the window sees besides, and
    the state after, without its window and short convolution."""
    geo, turn, after = mixer.geo, context.turns[mixer.geo.timing], state
    if turn.hints.writing:
        after = _write(mixer, x, state, turn, context)
    if geo.ring_input:
        after = replace(after, input=put(state.input, x, context))
    if not turn.hints.reads:
        return None, None, after
    read, bank = _read(mixer, x, after, turn, context, empty)
    further = None if after.kept is None or mixer.pairs is not None else exact.now(geo, after.kept, context.position)
    if not turn.hints.read:
        read = read * turn.seen.view(-1, 1, 1, 1).to(read.dtype)
    return read, further, after if bank is after.bank else replace(after, bank=bank)


def _write(mixer: Parts, x: Tensor, state: LayerState, turn: Turn, context: StepContext) -> LayerState:
    cfg, rule, wrote = mixer.cfg, mixer.memory, turn.wrote
    tokens = _leaving(mixer, x, state, turn, context)
    block = tokens.unflatten(1, (-1, cfg.rate))
    c = mixer.compress(block, _window(mixer, x, state, context)) if mixer.compress.sees_window else mixer.compress(block)
    made, online, bank, saved = rule.inputs(c), state.online, state.bank, state.kept
    for i in range(cfg.group):
        inputs, begins = {k: v[:, i] for k, v in made.items()}, turn.begins(rule.align(rule.options), cfg.group, i)
        if saved is not None:
            weigh = mixer.pairs is not None
            surprise, number = exact.surprise(rule, inputs, online, weigh), turn.update * cfg.group + i
            saved = kept(wrote, exact.one_more(saved, surprise, number, _pair(mixer, inputs, block[:, i])), saved)
        online = kept(wrote, rule.step(inputs, begins, online), online)
        if bank is not None:
            bank = bank.step(rule, inputs, begins, wrote)
    summary, router = state.summary, mixer.router
    if isinstance(router, AnchorRouter) and summary is not None:
        summary = keep(wrote, router.read(rule, rule.read_factors(online)), summary)
    elif router is not None and summary is not None:
        key, blocks, size = router.keys(c), router.blocks, router.block
        key = key if cfg.group == 1 else key.mean(1, keepdim=True)
        if blocks > 1:
            slot = torch.arange(blocks, device=x.device)
            here = turn.once(("block", blocks, size), lambda: slot == torch.div(turn.place, size, rounding_mode="floor")[:, None])
            key = key * here.unsqueeze(-1).to(key.dtype)
        summary = keep(wrote, summary + key, summary)
    return replace(state, online=online, bank=bank, summary=summary, kept=saved)


def _pair(mixer: Parts, inputs: Inputs, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept of a write of tokens [B, rate, D]: key [B, rate, J, K] and value."""
    if mixer.pairs is not None:
        return pairs.pair(mixer.memory, inputs)
    assert mixer.window is not None
    key, value = mixer.window.written(tokens.unsqueeze(1))
    return key.squeeze(1), value.squeeze(1)


def _leaving(mixer: Parts, x: Tensor, state: LayerState, turn: Turn, context: StepContext) -> Tensor:
    """The tokens [B, every, D] of each row's next update; the last of them may be this one."""
    geo = mixer.geo
    if not geo.ring_input:
        return x
    if geo.rate == 1 and context.at is not None:
        found = state.input.narrow(1, (context.at - geo.delay) % geo.ring_input, 1)
    else:
        steps = torch.arange(geo.rate, device=x.device)
        slot = turn.once("leaving", lambda: (turn.token[:, None] + steps) % geo.ring_input)
        found = state.input[context.rows[:, None], slot]
    found = found.to(x.dtype)
    return found if geo.delay else torch.cat([found[:, :-1], x], 1)


def _window(mixer: Parts, x: Tensor, state: LayerState, context: StepContext) -> Tensor:
    """The mean of the window's tokens for each write of this update [B, group, D]."""
    geo = mixer.geo
    before = context.position[:, None] - torch.arange(geo.window - 1, 0, -1, device=x.device)
    recent = torch.cat([state.input[context.rows[:, None], before % geo.ring_input].to(x.dtype), x], 1)
    return recent.mean(1, keepdim=True).expand(-1, mixer.cfg.group, -1)


def _read(
    mixer: Parts, x: Tensor, after: LayerState, turn: Turn, context: StepContext, empty: Tensor | None
) -> tuple[Tensor, Bank | None]:
    rule, router, bank = mixer.memory, mixer.router, after.bank
    z = rule.queries(x).transpose(1, 2)
    own = rule.read_factors(after.online)
    mix, view = ReadWeights(), None
    if router is not None and after.summary is not None:
        context.lead = Lead(router, router.queries(x), x, after.summary)
    if bank is not None and turn.hints.width != 0:
        view = bank.rows_view(router, turn, empty)
        if router is not None and context.lead is not None:
            if router.leads:
                context.lead.views.append(view)
            else:
                share_routing(view, context.lead, 0)
            mix = mixer.cache.mix(router, _scores(router, context.lead, view, turn))
            asked = turn.seen if context.active is None else turn.seen & context.active
            bank = bank.used(mix, asked.unsqueeze(1), 1)
    gate = None if mix.online is None else mix.online.transpose(1, 2).unsqueeze(-1).to(z.dtype)
    linear, blends = rule.read_is_linear, mixer.cache.blends
    out = z
    for i, matrices in enumerate(own):
        part = out @ matrices.to(z.dtype)
        if blends and not linear and view is not None and mix.gates is not None:
            part = (part if gate is None else gate * part) + bank_read.factor_sum(out, view.factors[i], mix.gates)
        out = rule.activation(i, part, z)
    if view is not None and (linear or not blends):
        out = (out if gate is None else gate * out) + _cached(mixer, z, view, mix)
    return out.transpose(1, 2), bank


def _scores(router: Router, lead: Lead, view: View, turn: Turn) -> RouterScores:
    assert view.summary is not None
    keys, online = lead.router, None
    if router.softmax:
        empty = None
        if not keys.summed:
            means = lead.before
        elif keys.blocks == 1:
            means = lead.before / turn.held
        else:
            slot = torch.arange(keys.blocks, device=turn.place.device) * keys.block
            count = torch.minimum(turn.place[:, None] + 1, slot + keys.block) - torch.maximum(slot, turn.start[:, None])
            count = count.clamp(min=0)
            means = lead.before / count.clamp(min=1).unsqueeze(-1)
            empty = (count == 0) & (count.sum(-1, keepdim=True) > 0)
            empty = empty.unsqueeze(1)
        online = keys.scores(lead.u, means.unsqueeze(1), empty).squeeze(-1)
    hidden = None if view.hidden is None else view.hidden.unsqueeze(1)
    return RouterScores(keys.scores(lead.u, view.summary, view.empty), online, hidden, view.age, view.newest_last)


def _cached(mixer: Parts, z: Tensor, view: View, mix: ReadWeights) -> Tensor:
    """The checkpoints' part, [B, H, 1, V]."""
    memory = mixer.memory
    activation = None if memory.read_is_linear else memory.activation
    if mix.index is not None and mix.gates is not None:
        return bank_read.picked(z, view.held, mix.gates, mix.index, activation, unpack)
    if mix.gates is not None:
        return bank_read.dense(z, view.factors, mix.gates, activation)
    number = view.number
    shown = None if view.hidden is None else ~view.hidden
    if activation is None:
        weights = view.factors[0]
        if shown is not None:
            weights = torch.where(shown[:, None, :, None, None], weights, 0.0)
        return z @ weights.sum(2).to(z.dtype)
    ones = z.new_ones(1) if shown is None else shown[:, None, None].to(z.dtype)
    return bank_read.dense(z, view.factors, ones.expand(z.shape[0], 1, z.shape[1], number), activation)
