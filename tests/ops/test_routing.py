"""Scores and gates of checkpoints, against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from siltstone.ops import routing

R, Q, H, N, U, J = 2, 3, 2, 4, 5, 3
SPREAD = 2.0


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_scores_of_sub_blocks_are_a_smooth_maximum() -> None:
    torch.manual_seed(0)
    u, summary, empty = rand(R, Q, U), rand(R, N, J, U), torch.zeros(R, N, J, dtype=torch.bool)
    empty[1, 2, 1:] = True
    found = routing.scores(u, summary, SPREAD, empty)
    for r, q, n in np.ndindex(R, Q, N):
        each = [float(u[r, q] @ summary[r, n, j]) for j in range(J) if not empty[r, n, j]]
        wanted = max(each) + math.log(sum(math.exp(16 * (x - max(each))) for x in each)) / 16
        assert math.isclose(float(found[r, q, n]), wanted, rel_tol=1e-10, abs_tol=1e-12)
    torch.testing.assert_close(routing.scores(u, summary[:, :, :1], SPREAD), u @ summary[:, :, 0].transpose(1, 2))


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("far", [False, True])
def test_gates(softmax: bool, far: bool) -> None:
    torch.manual_seed(1)
    scores, scale, bias, own = rand(R, Q, N), rand(H).exp(), rand(H), (rand(R, Q), rand(H))
    hidden = torch.zeros(R, 1, N, dtype=torch.bool)
    hidden[0, 0, 3] = True
    slope, age = np.array([0.5, 0.25]), torch.arange(N, 0, -1).expand(R, 1, N)
    online, gates = routing.gates(scores, scale, bias, own if softmax else None, hidden, (slope, age) if far else None)
    logits = scale * scores.unsqueeze(-1) + bias  # [R, Q, N, H]
    if far:
        logits = logits - torch.from_numpy(slope) * age.unsqueeze(-1)
    weights = logits.exp().masked_fill(hidden.unsqueeze(-1), 0.0)
    if softmax:
        mine = (scale * own[0].unsqueeze(-1) + own[1]).exp()
        total = weights.sum(2) + mine
        assert online is not None
        torch.testing.assert_close(online, mine / total, rtol=1e-11, atol=1e-12)
        wanted = weights / total.unsqueeze(2)
    else:
        assert online is None
        wanted = weights / (1 + weights)
    torch.testing.assert_close(gates, wanted.transpose(2, 3), rtol=1e-11, atol=1e-12)
