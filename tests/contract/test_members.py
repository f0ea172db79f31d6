"""No member is left out of the grid of cases."""

from __future__ import annotations

from siltstone.config import registry

from .grid import CACHES, MEMORIES, REST


def test_the_grid_has_every_member() -> None:
    assert sorted(MEMORIES) == sorted(registry.members("memory"))
    assert sorted(CACHES) == sorted(registry.members("cache"))
    assert sorted(REST["compress"]) == sorted(registry.members("compress"))
