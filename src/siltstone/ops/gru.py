"""Gated recurrent unit, z = sigmoid(.), r = sigmoid(.), n = tanh(W_n c + r * (U_n h)), h <- (1 - z) n + z h.

Source: arXiv 1406.1078, eqs. 5 to 8, in torch's form. `step` computes the same as torch's network; `chunk` runs the network by
calling its module, so a replaced module or a hook takes effect. It runs in float32 or wider: in bfloat16 torch would round the
state at every write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import recurrent
from .upcast import upcast, upcasting
from .vector import VectorRead

Network = Callable[[Tensor, Any], tuple[Tensor, Any]]


def step(hidden: Tensor, token: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """One write into h [G, H, V]: token [G, D]; weights of token [3*H*V, D] and state [3*H*V, H*V], and their biases: r, z, n."""
    w_ih, w_hh, b_ih, b_hh = weights
    h = hidden.flatten(1)
    (r, z, n), (r_h, z_h, n_h) = (x.chunk(3, -1) for x in (F.linear(token, w_ih, b_ih), F.linear(h, w_hh, b_hh)))
    r, z = (r + r_h).sigmoid(), (z + z_h).sigmoid()  # eqs. 5 and 6
    n = torch.tanh(n + r * n_h)  # eq. 8
    return ((1 - z) * n + z * h).view_as(hidden)  # eq. 7


def chunk(
    network: Network, hidden: Tensor, token: Tensor, *, valid: Tensor | None = None, skip: Tensor | None = None
) -> tuple[VectorRead, Tensor]:
    """`step` for hidden [G, H, V], token [G, S, L, D], by torch's network: see `recurrent.chunk`."""

    def run(token: Tensor, state: recurrent.Leaves, count: Tensor | None) -> tuple[Tensor, recurrent.Leaves]:
        with upcasting(token):
            after, _ = network(token, state[0].flatten(1)[None])
        return upcast(after), ()

    reader, (ends,) = recurrent.chunk(run, (hidden,), token, valid, skip)
    return reader, ends
