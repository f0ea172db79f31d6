"""State is a value: trees of row-batched tensors, and the sealed states that forks share, in tensors or in pages of pools."""

from .paged import PagedStore, Pool, Pools
from .spilled import Spill
from .tree import State, Store

__all__ = ["PagedStore", "Pool", "Pools", "Spill", "State", "Store"]
