"""Reads of many states, against sums that are written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from siltstone.ops import bank_read, mlp

R, H, Q, N, K = 2, 2, 5, 4, 3
STAGES = {"matrix": ((K, 4),), "mlp": ((K, 6), (6, K))}


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def one(z: Tensor, factors: list[Tensor], activation: bank_read.Activation | None) -> Tensor:
    """A query [in] asks one state of one head."""
    out = z
    for i, matrix in enumerate(factors):
        out = out @ matrix if activation is None else activation(i, out @ matrix, z)
    return out


def same(ways: tuple[Callable[[], Tensor], Callable[[], Tensor]], given: list[Tensor]) -> None:
    """Results and gradients, with and without autograd."""
    results = [way() for way in ways]
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)
    weight = torch.randn_like(results[0])
    for x, y in zip(*(torch.autograd.grad((found * weight).sum(), given) for found in results), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(*(way() for way in ways), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", STAGES)
def test_dense(kind: str) -> None:
    torch.manual_seed(0)
    activation = None if kind == "matrix" else mlp.activation
    z, gates, factors = rand(R, H, Q, K), rand(R, Q, H, N), [rand(R, H, N, *shape) for shape in STAGES[kind]]

    def written_out() -> Tensor:
        def at(r: int, h: int, q: int) -> Tensor:
            return sum(gates[r, q, h, n] * one(z[r, h, q], [w[r, h, n] for w in factors], activation) for n in range(N))  # type: ignore

        return torch.stack([at(r, h, q) for r in range(R) for h in range(H) for q in range(Q)]).view(R, H, Q, -1)

    same((lambda: bank_read.dense(z, tuple(factors), gates, activation), written_out), [z, gates, *factors])


@pytest.mark.parametrize(("runs", "queries"), [(R, Q), (1, 1)])
@pytest.mark.parametrize("kind", STAGES)
def test_sparse_is_dense_under_gates_of_zero(kind: str, runs: int, queries: int) -> None:
    torch.manual_seed(1)
    activation = None if kind == "matrix" else mlp.activation
    rows, gates = rand(runs, queries, H, K), rand(runs, queries, H, 2)
    factors = tuple(rand(runs, H, N, *shape) for shape in STAGES[kind])
    index = torch.rand(runs, queries, N).argsort(-1)[..., :2]

    def spread_out() -> Tensor:
        every = gates.new_zeros(runs, queries, H, N).scatter(3, index.unsqueeze(2).expand_as(gates), gates)
        return bank_read.dense(rows.transpose(1, 2), factors, every, activation).transpose(1, 2)

    same((lambda: bank_read.sparse(rows, factors, gates, index, activation, lambda x: x), spread_out), [rows, gates, *factors])


def test_blended_weights_are_blended_outputs_of_one_matrix() -> None:
    torch.manual_seed(2)
    z, gates, matrices = rand(R, H, Q, K), rand(R, Q, H, N), rand(R, H, N, K, 4)
    blended = torch.einsum("rqhn,rhnkv->rhqkv", gates, matrices)
    found = bank_read.factor_sum(z, matrices, gates)
    torch.testing.assert_close(found, (z.unsqueeze(-2) @ blended).squeeze(-2), rtol=1e-11, atol=1e-12)


def test_pieces_see_the_first_checkpoints() -> None:
    torch.manual_seed(3)
    z, gates, matrices, widths = rand(R, 3, H, Q, K), rand(R, 3, H, Q, N), rand(R, H, N, K, 4), [0, 2, 4]
    seen = (torch.arange(N) < torch.tensor(widths)[:, None])[:, None, None]

    def written_out() -> Tensor:
        return torch.einsum("rshqn,rshqk,rhnkv->rshqv", gates * seen, z, matrices)

    same((lambda: bank_read.by_segment_chunk(z, matrices, gates, widths), written_out), [z, gates, matrices])
