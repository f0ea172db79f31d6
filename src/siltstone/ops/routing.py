"""Scores and gates of checkpoints.

    score_n = <u, s_n>, or for sub-blocks log sum_j exp(b <u, s_nj>) / b with b = 8 spread: a smooth maximum
    logit_{h,n} = exp(log_scale_h) spread score_n + bias_h - slope_h age_n

spread: the square root of the number of writes that a summary covers. Source: arXiv 2602.24281, eqs. 9, 10, 16, 17; the distance
bias as in arXiv 2108.12409, over segments instead of tokens.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .upcast import upcast

STEPS = 2.0**12  # steps per unit of score; without them, rounding would choose between lines with the same words


def scores(u: Tensor, summary: Tensor, spread: float, empty: Tensor | None = None) -> Tensor:
    """u [R, Q, U], summary [R, N, J, U], empty bool [R, N, J] (sub-blocks without a write) -> [R, Q, N]."""
    each = u @ summary.flatten(1, 2).to(u.dtype).transpose(-1, -2)
    if summary.shape[2] == 1:
        return each
    return best(each.unflatten(-1, summary.shape[1:3]), spread, None if empty is None else empty.unsqueeze(1))


def best(each: Tensor, spread: float, empty: Tensor | None) -> Tensor:
    """Scores of sub-blocks [..., J], some of them empty -> scores of the checkpoints [...]."""
    sharp = 8.0 * spread
    if empty is not None:
        each = each.masked_fill(empty, float("-inf"))
    return (sharp * each).logsumexp(-1) / sharp


def gates(
    scores: Tensor,
    scale: Tensor,
    bias: Tensor,
    own: tuple[Tensor, Tensor] | None,
    hidden: Tensor | None = None,
    far: tuple[np.ndarray, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor]:
    """scores [R, Q, N], scale and bias [H] -> gate of the online memory [R, Q, H] (None: 1), and gates [R, Q, H, N].

    own      score [R, Q] and bias [H] of the online memory: gates are a softmax over it and the checkpoints; None: sigmoids
    hidden   bool [R, Q or 1, N], True where the checkpoint does not exist for the query
    far      slope [H] and age [R, Q or 1, N]
    """
    scale = scale.to(scores.dtype).view(-1, 1, 1)
    bias = bias.unsqueeze(-1).expand(-1, scores.shape[-1])
    if own is not None:
        scores, bias = torch.cat([scores, own[0].unsqueeze(-1)], -1), torch.cat([bias, own[1].unsqueeze(-1)], -1)
    last = scores.transpose(-1, -2).contiguous().unsqueeze(1)  # checkpoints before queries: this softmax is vectorised
    logits = torch.addcmul(bias.to(scores.dtype).unsqueeze(-1), last, scale)
    if far is not None:
        age = far[1] if own is None else F.pad(far[1], (0, 1))
        slope = torch.from_numpy(far[0]).to(scores).view(-1, 1, 1)
        logits = logits - slope * age.to(scores.dtype).transpose(-1, -2).unsqueeze(1)
    if hidden is not None:
        hidden = hidden if own is None else F.pad(hidden, (0, 1))
        logits = logits.masked_fill(hidden.transpose(-1, -2).unsqueeze(1), float("-inf"))
    weights = (logits.sigmoid() if own is None else logits.softmax(2)).permute(0, 3, 1, 2)
    return (None, weights) if own is None else (weights[..., -1], weights[..., :-1])


def in_steps(scores: Tensor) -> Tensor:
    """Scores as integers, for comparison."""
    return (upcast(scores.detach()) * STEPS).round()


def top(scores: Tensor, hidden: Tensor | None, k: int, newest_last: bool) -> Tensor:
    """Indices of the k largest of scores in steps [R, Q, N]; ties go to the most recent. No number is read back: a step and the
    place beside it are one whole number."""
    number = scores.shape[-1]
    place = torch.arange(number, device=scores.device)
    key = torch.add(place if newest_last else number - 1 - place, scores.to(torch.int64), alpha=1 << 32)
    if hidden is not None:
        key = key.masked_fill(hidden, torch.iinfo(torch.int64).min)
    return key.topk(k, -1).indices
