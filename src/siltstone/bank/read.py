"""Reads checkpoints with a memory's read factors; equations: ops/bank_read.py."""

from __future__ import annotations

from torch import Tensor

from ..cache.base import ReadWeights
from ..memory.base import Memory
from ..ops import bank_read
from ..ops.pages import Pages
from .codec import unpack


def dense(memory: Memory, z: Tensor, factors: tuple[Tensor, ...], gates: Tensor) -> Tensor:
    """sum_n gates_n M_n(z) for z [R, H, Q, in] and gates [R, Q, H, N]: [R, H, Q, V]."""
    return bank_read.dense(z, factors, gates, None if memory.read_is_linear else memory.activation)


def sparse(memory: Memory, rows: Tensor, held: tuple[Tensor, ...] | Pages, mix: ReadWeights) -> Tensor:
    """sum_j gates_j M_{index_j}(z) for rows [R, Q, H, in] and index [R, Q, k]: [R, Q, H, V]; what is held is packed."""
    assert mix.gates is not None and mix.index is not None
    activation = None if memory.read_is_linear else memory.activation
    return bank_read.sparse(rows, held, mix.gates, mix.index, activation, unpack)
