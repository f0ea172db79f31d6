"""Reads of many states: weighted outputs, blended weights, or sparse reads; for memories of any number of read factors.

    dense     sum_n gates_n M_n(z)          blended   M*(z), W* = sum_n gates_n W_n, one read factor at a time (`factor_sum`)
    sparse    sum_j gates_j M_{index_j}(z)

Shapes: query z [R, H, Q, in], or [R, S, H, Q, in] of all segment chunks; a read factor of N checkpoints [R, H, N, in, out];
gates [R, Q, H, N]. The dense read of one read factor is a single product: (gates x z) as [Q, N * in] times [N * in, out].
The sparse read sorts (token, choice) pairs by checkpoint and multiplies each checkpoint once with its own pairs.
Source: arXiv 2602.24281, eqs. 9, 14 and 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .pages import Pages, laid_out
from .transforms import at_work, unreadable, without

Activation = Callable[[int, Tensor, Tensor], Tensor]  # read factor, z, query -> result of the activation after the read factor
Factors = tuple[Tensor, ...]
Held = Factors | Pages
Unpack = Callable[[Factors], Factors]


def factor_sum(z: Tensor, matrices: Tensor, gates: Tensor) -> Tensor:
    """sum_n gates_n (z @ W_n): [R, H, Q, out]."""
    return by_segment_chunk(z.unsqueeze(1), matrices, gates.transpose(1, 2).unsqueeze(1), [matrices.shape[2]]).squeeze(1)


def by_segment_chunk(z: Tensor, matrices: Tensor, gates: Tensor, widths: list[int]) -> Tensor:
    """sum_n gates_n (z @ W_n) for segment chunks that each see the first `widths[s]` matrices.

    z [R, S, H, Q, in], matrices [R, H, N, in, out], gates [R, S, H, Q, N]: [R, S, H, Q, out].
    """
    gates, matrices = gates.to(z.dtype), matrices.to(z.dtype)
    if torch.is_grad_enabled():
        return GatedProduct.apply(z, matrices, gates, widths)
    return _gated_product(z, matrices, gates, widths)


def _gated_product(z: Tensor, matrices: Tensor, gates: Tensor, widths: list[int]) -> Tensor:
    flat, outs = matrices.flatten(2, 3), []
    for j, n in enumerate(widths):
        if n:
            outs.append(_outer(z[:, j], gates[:, j, ..., :n]) @ flat[:, :, : n * z.shape[-1]])
        else:
            outs.append(z.new_zeros(*z[:, j].shape[:-1], flat.shape[-1]))
    return torch.stack([o.to(outs[-1].dtype) for o in outs], 1)


def _outer(z: Tensor, gates: Tensor) -> Tensor:
    if torch.is_grad_enabled() or at_work():
        return (gates.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)
    rows = z.new_empty(*gates.shape, z.shape[-1])  # in this memory layout, for any layout of the operands
    return torch.mul(gates.unsqueeze(-1), z.unsqueeze(-2), out=rows).flatten(-2)


class GatedProduct(torch.autograd.Function):
    """`by_segment_chunk` with a backward pass that keeps the inputs and not their large product.

    It is linear in each input, and the formulas consist of differentiable operations, so that they can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, matrices: Tensor, gates: Tensor, widths: list[int]) -> Tensor:  # type: ignore[override]
        """[R, S, H, Q, out]."""
        return _gated_product(z, matrices, gates, widths)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keeps the inputs."""
        z, matrices, gates, ctx.widths = inputs
        ctx.save_for_backward(z, matrices, gates)
        ctx.save_for_forward(z, matrices, gates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """With P = grad W^T laid out [.., Q, N, in]: dz = gates P, dgates = P z, dW = (gates x z)^T grad."""
        z, matrices, gates = (x.contiguous() for x in ctx.saved_tensors)
        grad = grad.to(z.dtype).contiguous()  # autocast may have computed the product in a narrower dtype
        flat, most = matrices.flatten(2, 3), gates.shape[-1]
        dz, dgates, dmatrices = [], [], torch.zeros_like(flat) if ctx.needs_input_grad[1] else None
        for j, n in enumerate(ctx.widths):
            g, q, late = gates[:, j, ..., :n], z[:, j], grad[:, j]
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
                back = (late @ flat[:, :, : n * q.shape[-1]].transpose(-1, -2)).unflatten(-1, (n, q.shape[-1]))
                dgates.append(F.pad(torch.linalg.vecdot(back, q.unsqueeze(-2)).to(g.dtype), (0, most - n)))
                dz.append((back * g.unsqueeze(-1)).sum(-2).to(q.dtype))
            if dmatrices is not None and n:
                dmatrices = _plus(dmatrices, (_outer(q, g).transpose(-1, -2) @ late).to(flat.dtype))
        dmatrices = None if dmatrices is None else dmatrices.view(matrices.shape)
        return torch.stack(dz, 1) if dz else None, dmatrices, torch.stack(dgates, 1) if dgates else None, None

    @staticmethod
    def jvp(ctx: Any, z: Any, matrices: Any, gates: Any, _: Any) -> Tensor:  # type: ignore[override]
        """The sum over all inputs with a tangent, of the product with that input replaced by its tangent."""
        inputs, moves = ctx.saved_tensors, (z, matrices, gates)
        each = [(*inputs[:i], move, *inputs[i + 1 :], ctx.widths) for i, move in enumerate(moves) if move is not None]
        return torch.stack([_gated_product(*one) for one in each]).sum(0)


def _plus(total: Tensor, more: Tensor) -> Tensor:
    """total [R, H, N * in, out] plus `more` in its first checkpoints; in place if no gradient is needed."""
    first = more.shape[2]
    if torch.is_grad_enabled() or at_work():
        return total + F.pad(more, (0, 0, 0, total.shape[2] - first))
    total[:, :, :first] += more
    return total


def dense(z: Tensor, factors: Factors, gates: Tensor, activation: Activation | None) -> Tensor:
    """sum_n gates_n M_n(z): [R, H, Q, out]; activation None: a single matrix without an activation."""
    if activation is None:
        return factor_sum(z, factors[0], gates)
    query, out = z.unsqueeze(2), z.unsqueeze(2)
    for i, matrices in enumerate(factors):
        out = activation(i, out @ matrices.to(z.dtype), query)
    return (gates.permute(0, 2, 3, 1).unsqueeze(-1).to(z.dtype) * out).sum(2)


def sparse(rows: Tensor, held: Held, gates: Tensor, index: Tensor, activation: Activation | None, unpack: Unpack) -> Tensor:
    """sum_j gates_j M_{index_j}(z) for rows [R, Q, H, in], gates [R, Q, H, k] and index [R, Q, k]: [R, Q, H, V].

    held: packed matrices [R, H, N, in, out], or their pages; only the selected ones are unpacked. activation: as in `dense`.
    """
    runs, queries = rows.shape[:2]
    number, k = held.number if isinstance(held, Pages) else held[0].shape[2], index.shape[-1]
    if unreadable(
        rows, index, *(held.leaves if isinstance(held, Pages) else held)
    ):  # read every checkpoint; the ones that were not selected have gate 0
        all_gates = gates.new_zeros(*gates.shape[:3], number)
        all_gates = all_gates.scatter_add(3, index.unsqueeze(2).expand_as(gates), gates)
        return dense(rows.transpose(1, 2), unpack(laid_out(held)), all_gates, activation).transpose(1, 2)
    expert = (without(index) + torch.arange(runs, device=rows.device)[:, None, None] * number).flatten()
    order = expert.argsort()
    back = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=rows.device))
    counts = torch.bincount(expert, minlength=runs * number).tolist()
    pairs = Spread.apply(rows.flatten(0, 1), order, back, k)
    if isinstance(held, Pages):
        each = held.at
    else:
        each = list(zip(*([x for run in leaf.unbind(0) for x in run.unbind(1)] for leaf in held), strict=True)).__getitem__
    outs = []
    for n, part in enumerate(pairs.split(counts)):
        if counts[n]:
            query = out = part.transpose(0, 1)
            for i, matrices in enumerate(unpack(each(n))):
                out = out @ matrices.to(rows.dtype)
                out = out if activation is None else activation(i, out, query)
            outs.append(out.transpose(0, 1))
    found = Permute.apply(torch.cat(outs), back, order).unflatten(0, (runs, queries, k))
    weights = gates.transpose(2, 3).unsqueeze(-1).to(rows.dtype)
    if torch.is_grad_enabled() or at_work():
        return (found * weights).sum(2)
    total = found[:, :, 0] * weights[:, :, 0]
    for j in range(1, k):
        total.addcmul_(found[:, :, j], weights[:, :, j])
    return total


def picked(z: Tensor, held: Held, gates: Tensor, index: Tensor, activation: Activation | None, unpack: Unpack) -> Tensor:
    """`sparse` for one query a row, without a number read back: z [B, H, 1, in], gates [B, 1, H, k], index [B, 1, k]."""
    if isinstance(held, Pages):
        found = held.picked(index[:, 0])
    elif len(z) == 1:
        found = tuple(x.index_select(2, index.flatten()) for x in held)
    else:
        row = torch.arange(len(z), device=z.device)[:, None]
        found = tuple(x.transpose(1, 2)[row, index[:, 0]].transpose(1, 2) for x in held)
    return dense(z, unpack(found), gates, activation)


class Spread(torch.autograd.Function):
    """Row i // k of x for each i of `order`, a permutation of the k copies of all rows; its gradient is a gather too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, order: Tensor, back: Tensor, k: int) -> Tensor:  # type: ignore[override]
        """The copies in the new order."""
        return x.index_select(0, order // k)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keeps the orders."""
        _, order, back, ctx.k = inputs
        ctx.save_for_backward(back)
        ctx.save_for_forward(order, back)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """The sum over each row's copies."""
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back).unflatten(0, (-1, ctx.k)).sum(1), None, None, None

    @staticmethod
    def jvp(ctx: Any, x: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        """The tangents in the new order."""
        order, _back = ctx.saved_tensors
        return x.index_select(0, order // ctx.k)


class Permute(torch.autograd.Function):
    """x[order] for a permutation, whose gradient is a gather too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, order: Tensor, back: Tensor) -> Tensor:  # type: ignore[override]
        """Rows in a new order."""
        return x.index_select(0, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keeps the orders."""
        _, order, back = inputs
        ctx.save_for_backward(back)
        ctx.save_for_forward(order, back)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """Rows in the old order."""
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None

    @staticmethod
    def jvp(ctx: Any, x: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        """The tangents in the new order."""
        order, _back = ctx.saved_tensors
        return x.index_select(0, order)
