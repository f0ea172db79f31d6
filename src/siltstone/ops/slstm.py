"""Scalar LSTM with exponential gates: c <- f c + i z, n <- f n + i, h <- o c / n.

Source: arXiv 2405.04517, eqs. 8 to 17. c and n are stored in units of e^m, so nothing overflows and n is at least 1; m cancels
out of h. A state is h, c, n and m.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import recurrent
from .upcast import exactly, upcast
from .vector import VectorRead

Leaves = recurrent.Leaves
NOTHING = -1e30  # m before the first write: finite, and far below any gate


def step(state: Leaves, token: Tensor, around: Tensor) -> Leaves:
    """One write, heads first: leaves [H, G, V], token [H, G, 4*V] (its part of z, i, f, o), around [H, V, 4*V] is R."""
    hidden, cell, total, level = state
    z, enter, forget, out = torch.baddbmm(token, hidden, around).chunk(4, -1)
    fade = F.logsigmoid(forget) + level
    level = torch.maximum(fade, enter).detach()  # eq. 15
    keep, fresh = (fade - level).exp(), (enter - level).exp()  # eqs. 17 and 16
    cell = torch.addcmul(keep * cell, fresh, z.tanh())  # eq. 8
    total = torch.addcmul(fresh, keep, total)  # eq. 9
    hidden = out.sigmoid() * cell / total.clamp(min=0.5)  # eq. 10; n is at least 1, but 0 in empty places of a bank
    return hidden, cell, total, level


def chunk(
    around: Tensor, state: Leaves, token: Tensor, *, valid: Tensor | None = None, skip: Tensor | None = None
) -> tuple[VectorRead, Leaves]:
    """`step` for leaves [G, H, V], token [G, S, L, 4*H*V]: see `recurrent.chunk`. Writes are sequential."""
    heads = len(around)

    def run(token: Tensor, state: Leaves, count: Tensor | None) -> tuple[Tensor, Leaves]:
        now = tuple(x.transpose(0, 1) for x in state)
        fed = token.to(now[0].dtype).unflatten(-1, (4, heads, -1)).permute(1, 3, 0, 2, 4).flatten(3)
        again, states = upcast(around).to(now[0].dtype), [now]
        with exactly(token):
            for inside in fed.unbind(0):
                states.append(step(states[-1], inside, again))
        hidden, *rest = zip(*states, strict=True)
        return torch.stack(hidden[1:]).permute(2, 0, 1, 3).flatten(2), tuple(_at(x, count).transpose(0, 1) for x in rest)

    return recurrent.chunk(run, state, token, valid, skip)


def _at(states: tuple[Tensor, ...], count: Tensor | None) -> Tensor:
    """Each row's state [H, G, V] after `count` [G] writes (None: all), selected from the states after 0, 1, ... writes."""
    if count is None:
        return states[-1]
    return torch.stack(states).gather(0, count[:, None].expand(1, *states[0].shape))[0]
