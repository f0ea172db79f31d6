"""State is a value: trees of row-batched tensors, and the store of sealed states that forks share."""

from .tree import State, Store

__all__ = ["State", "Store"]
