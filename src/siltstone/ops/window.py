"""Exact attention over a window: queries in blocks, each attends to its own tokens, the E before them, and the sinks.

Softmax attention, eq. 1 of arXiv 1706.03762; the window as in arXiv 2004.05150; sinks as in arXiv 2309.17453.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import attend


class Far(NamedTuple):
    """Tokens that queries see outside the window.

    tokens   keys [R, n, J, N, K] and values [R, n, J, N, V] of each kind, for each block of queries; the last kind are the sinks
    query    [R, T, H, K] queries for these tokens; None: the same as for the window
    bias     [R, n, H or 1, block, N] of all kinds except the sinks; None: `bands` contain all
    """

    tokens: list[tuple[Tensor, Tensor]]
    query: Tensor | None
    bias: Tensor | None


def blocked(
    q: Tensor, keys: Tensor, values: Tensor, bands: list[tuple[int, int, Tensor]], far: Far, block: int, scale: float
) -> Tensor:
    """q [R, T, H, K], keys [R, E + T, J, K], values [R, E + T, J, V] in order of time -> [R, T, H, V].

    bands: first block, last block, and their biases [R or 1, blocks or 1, H or 1, block, sinks + E + block].
    """
    runs, tokens = q.shape[:2]
    n, ring = -(-tokens // block), keys.shape[1] - tokens
    short = n * block - tokens
    q_far = far.query
    if short:
        q, keys, values = (F.pad(z, (0, 0, 0, 0, 0, short)) for z in (q, keys, values))
        q_far = None if q_far is None else F.pad(q_far, (0, 0, 0, 0, 0, short))
    q = q.unflatten(1, (n, block)).transpose(2, 3)
    keys = keys.unfold(1, ring + block, block).permute(0, 1, 2, 4, 3)
    values = values.unfold(1, ring + block, block).permute(0, 1, 2, 4, 3)
    if far.tokens:
        far_keys = torch.cat([key for key, _ in far.tokens], -2)
        if q_far is not None:  # queries for those tokens, beside the queries for the window
            q = torch.cat([q, q_far.unflatten(1, (n, block)).transpose(2, 3)], -1)
            far_keys, keys = F.pad(far_keys, (far_keys.shape[-1], 0)), F.pad(keys, (0, keys.shape[-1]))
        keys, values = torch.cat([far_keys, keys], -2), torch.cat([*(value for _, value in far.tokens), values], -2)
    outs = []
    for first, last, bias in bands:
        part = (runs, last - first)
        bias = bias.expand(*part, -1, -1, -1)
        if far.bias is not None:
            bias = torch.cat([far.bias[:, first:last], bias], -1)
        qb, kb, vb = (z[:, first:last].flatten(0, 1) for z in (q, keys, values))
        outs.append(attend(qb, kb, vb, bias.flatten(0, 1), False, scale).unflatten(0, part))
    out = torch.cat(outs, 1) if len(outs) > 1 else outs[0]
    return out.transpose(2, 3).flatten(1, 2)[:, :tokens]


class Part(NamedTuple):
    """Keys that one query a row attends to: q [B, 1, H, K], key [B, N, J, K], value [B, N, J, V], bias [B, H or 1, 1, N]."""

    q: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor


def one(parts: list[Part], scale: float) -> Tensor:
    """One softmax over the keys of all parts: [B, 1, H, V]."""
    if len(parts) == 1:
        (first,) = parts
        key, value = first.key.transpose(1, 2), first.value.transpose(1, 2)
        return attend(first.q.transpose(1, 2), key, value, first.bias, False, scale).transpose(1, 2)
    return torch.stack([out for _, out in each(parts, scale)]).sum(0).flatten(1, 2).unsqueeze(1)


def each(parts: list[Part], scale: float) -> list[tuple[Tensor, Tensor]]:
    """What one softmax over the keys of all parts gives each part: shares [B, H, 1, N] and outputs [B, J, H / J, V]."""
    heads, shared = parts[0].q.shape[2], parts[0].key.shape[2]
    scores = []
    for part in parts:
        q = part.q[:, 0].unflatten(1, (shared, heads // shared))  # [B, J, H / J, K]
        found = (q @ part.key.permute(0, 2, 3, 1)) * scale
        scores.append(found.flatten(1, 2).unsqueeze(2) + part.bias)
    shares = torch.cat(scores, -1).softmax(-1).split([part.key.shape[1] for part in parts], -1)
    return [
        (share, share[:, :, 0].unflatten(1, (shared, heads // shared)) @ part.value.transpose(1, 2))
        for share, part in zip(shares, parts, strict=True)
    ]
