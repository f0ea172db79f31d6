"""No member is left out of the grid of cases."""

from __future__ import annotations

from siltstone.config import registry

from . import test_blocks
from .grid import CACHES, MEMORIES, MEMORYLESS, REST


def test_the_grid_has_every_member() -> None:
    assert sorted(MEMORIES) == sorted(registry.members("memory"))
    assert sorted([*CACHES, *MEMORYLESS]) == sorted(registry.members("cache"))
    assert {cfg["cache"] for cfg in test_blocks.CASES.values()} == {*MEMORYLESS}
    assert sorted(REST["compress"]) == sorted(registry.members("compress"))
