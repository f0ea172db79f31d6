"""`titans-pytorch` against titans: at these settings its recurrence is ours, write for write.

One token a chunk (`chunk_size=1`), its batch our inner batch, the sum of squares as its loss, the largest step our rate, M(x) =
x + gelu(x W_in) W_out as its model, unit queries and keys, and neither its norms nor its output gate. Its own defaults differ:
the mean of squares, a layer norm inside M, RMSNorm before it, and no l2; steps are then up to 1, of a mean over the head.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from siltstone.ops.norm import l2

from .common import FLOAT64, HEADS, WIDTH, agree, layer, package, stream

titans = package("titans_pytorch")


class Residual(nn.Module):
    """M(x) = x + gelu(x W_in) W_out."""

    def __init__(self, w_in: Tensor, w_out: Tensor):
        super().__init__()
        self.w_in, self.w_out = nn.Parameter(w_in.detach().float()), nn.Parameter(w_out.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        return x + gelu(x @ self.w_in) @ self.w_out


class Unit(nn.Module):
    """z / |z|."""

    def forward(self, z: Tensor) -> Tensor:
        return l2(z)


def their_memory(made: Any, batch: int, rate: float) -> tuple[Any, dict[str, Tensor]]:
    """Their module, and our weights by its names."""
    ours = made.mix.memory
    key = made.cfg.key_dim
    theirs = titans.NeuralMemory(
        WIDTH,
        dim_head=key,
        heads=HEADS,
        chunk_size=1,
        batch_size=batch,
        model=Residual(ours.w_in[0], ours.w_out[0]),
        pre_rmsnorm=False,
        mem_model_norm_add_residual=False,
        store_memory_loss_fn=lambda got, want: (got - want).square().sum(-1),
        adaptive_step_transform=lambda step: rate * step.sigmoid(),
    ).double()
    theirs.q_norm, theirs.k_norm = Unit(), Unit()
    theirs.retrieve_gate, theirs.combine_heads = None, nn.Identity()
    keys, values = ours.write.weight.chunk(2)
    found = {"to_queries.weight": ours.query.weight, "to_keys.weight": keys, "to_values.weight": values}
    for name, weight, bias in zip(
        ("to_decay_factor", "to_momentum", "to_adaptive_step"), ours.gates.weight.chunk(3), ours.gates.bias.chunk(3), strict=True
    ):
        found |= {f"{name}.0.weight": weight, f"{name}.0.bias": bias}
    found |= {"memory_model_parameters.0": ours.w_in, "memory_model_parameters.1": ours.w_out}
    assert set(found) | {"memory_model.w_in", "memory_model.w_out"} == {name for name, _ in theirs.named_parameters()}
    return theirs, found


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_titans_is_that_of_titans_pytorch(batch: int) -> None:
    options = {"inner_batch": batch, "expansion": 2, "inner_lr": 0.1}
    made = layer("titans", options)
    theirs, weights = their_memory(made, batch, options["rate"])

    def other(x: Tensor) -> Tensor:
        return torch.func.functional_call(theirs, weights, (x,))[0]

    agree(made, other, stream(37), FLOAT64, [1, 16, 22])
