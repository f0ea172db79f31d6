"""Long short-term memory, i, f, o = sigmoid(.), g = tanh(.), s <- f * s + i * g, h <- o * tanh(s).

Source: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000, in torch's form. `step` computes the same as
torch's network; `chunk` runs the network, in float32 or wider, as in gru.py. A state is h and s, [G, H, V] each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from . import recurrent
from .gru import Network
from .transforms import at_work, plain_recurrences
from .upcast import upcast, upcasting
from .vector import VectorRead

Leaves = recurrent.Leaves


def step(state: Leaves, token: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor]) -> Leaves:
    """One write: token [G, D]; weights of token [4*H*V, D] and state [4*H*V, H*V], and their biases: i, f, g, o."""
    w_ih, w_hh, b_ih, b_hh = weights
    h, s = (x.flatten(1) for x in state)
    i, f, g, o = (F.linear(token, w_ih, b_ih) + F.linear(h, w_hh, b_hh)).chunk(4, -1)
    s = f.sigmoid() * s + i.sigmoid() * g.tanh()
    h = o.sigmoid() * s.tanh()
    return h.view_as(state[0]), s.view_as(state[1])


def chunk(
    network: Network, state: Leaves, token: Tensor, *, valid: Tensor | None = None, skip: Tensor | None = None
) -> tuple[VectorRead, Leaves]:
    """`step` for token [G, S, L, D], by torch's network: see `recurrent.chunk`."""

    def run(token: Tensor, state: Leaves, count: Tensor | None) -> tuple[Tensor, Leaves]:
        start = state[0].flatten(1)[None], state[1].flatten(1)[None]
        if count is None:
            with upcasting(token), plain_recurrences():
                after, (_, cell) = network(token, start)
            return upcast(after), (upcast(cell[0]).unflatten(-1, state[1].shape[1:]),)
        if at_work() or count.is_meta:
            return _singly(network, token, state, count)
        packed = pack_padded_sequence(token, count.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        with upcasting(token):
            out, (_, cell) = network(packed, start)  # type: ignore[arg-type]
        after, _ = pad_packed_sequence(out, batch_first=True, total_length=token.shape[1])  # type: ignore[arg-type]
        cell = upcast(cell[0]).unflatten(-1, state[1].shape[1:])
        return upcast(after), (cell.where((count > 0)[:, None, None], state[1]),)

    return recurrent.chunk(run, state, token, valid, skip)


def _singly(network: Network, token: Tensor, state: Leaves, count: Tensor) -> tuple[Tensor, Leaves]:
    """The same, one token at a time: torch cannot pack tensors of torch.func or of the device meta."""
    now, after, cells = (state[0].flatten(1)[None], state[1].flatten(1)[None]), [], [state[1].flatten(1)]
    for one in token.split(1, 1):
        with upcasting(one), plain_recurrences():
            out, now = network(one, now)
        after.append(upcast(out))
        cells.append(upcast(now[1][0]))
    cell = torch.stack(cells).gather(0, count[None, :, None].expand(1, *cells[0].shape))[0]
    return torch.cat(after, 1), (cell.unflatten(-1, state[1].shape[1:]),)
