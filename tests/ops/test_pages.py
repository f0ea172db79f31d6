"""Sparse reads of pages, against the same checkpoints laid out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siltstone.ops import bank_read, mlp
from siltstone.ops.pages import Pages, laid_out

H, K, P = 2, 3, 9
STAGES = {"matrix": ((K, 4),), "mlp": ((K, 6), (6, K))}
TABLE = np.array([[4, 2, 7, 8], [3, 3, 0, 0], [8, 1, 5, 0]])


def pages(kind: str, rows: int) -> Pages:
    torch.manual_seed(0)
    leaves = tuple(torch.randn(H, P, *shape, dtype=torch.float64) for shape in STAGES[kind])
    for x in leaves:
        x[:, 0], x[:, 6] = 0.0, float("nan")  # the page of zeros, and a page that nobody holds
    host = TABLE[:rows]
    whole = tuple(x[:, torch.from_numpy(host)].movedim(1, 0).contiguous() for x in leaves)
    return Pages(leaves, torch.from_numpy(host), host, lambda: whole)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", STAGES)
@torch.no_grad()
def test_sparse_reads_of_pages(kind: str, rows: int) -> None:
    held, activation = pages(kind, rows), None if kind == "matrix" else mlp.activation
    plain = laid_out(held)
    assert laid_out(plain) is plain and held.number == plain[0].shape[2] == 4
    for n in range(4 * rows):
        assert all(torch.equal(x, y[n // 4, :, n % 4]) for x, y in zip(held.at(n), plain, strict=True))
    for queries in (1, 5):
        z, gates = torch.randn(rows, queries, H, K, dtype=torch.float64), torch.randn(rows, queries, H, 2, dtype=torch.float64)
        index = torch.rand(rows, queries, 4).argsort(-1)[..., :2]
        found = [bank_read.sparse(z, x, gates, index, activation, lambda x: x) for x in (held, plain)]
        assert torch.equal(*found) and found[0].isfinite().all()
    z = torch.randn(rows, H, 1, K, dtype=torch.float64)
    assert torch.equal(*(bank_read.picked(z, x, gates[:, :1], index[:, :1], activation, lambda x: x) for x in (held, plain)))
