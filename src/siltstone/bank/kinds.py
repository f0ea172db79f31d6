"""Chooses a layer's bank: that of its kind of segment, or one with a budget. A kind of segment is a file in this folder."""

from __future__ import annotations

from ..config import registry
from ..config.layer import LayerConfig
from ..memory.base import Memory
from ..schedule.call import ENDLESS
from .base import Bank
from .budget import BudgetBank, places


def kind(cfg: LayerConfig) -> type[Bank]:
    """The class that decides when segments end; without a budget, also the layer's bank."""
    return registry.member("segments", cfg.segments)


def bank(cfg: LayerConfig) -> type[Bank]:
    """The bank that keeps a layer's checkpoints."""
    return BudgetBank if cfg.bounded else kind(cfg)


def budget(memory: Memory, routing: tuple[int, int] | None) -> int:
    """The largest number of checkpoints per row. routing: (J, U) of the layer's routing keys, its own or another layer's."""
    return places(memory, routing) if memory.cfg.bounded else ENDLESS


def telling() -> set[str]:
    """Names of the leaves, of any bank, that say which segments are held."""
    return {leaf for each in (BudgetBank, *registry.members("segments").values()) for leaf in each.tells}
