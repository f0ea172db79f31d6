"""No cache: one endless segment, the plain recurrence."""

from __future__ import annotations

from typing import ClassVar

from .base import Asked, CachePolicy, Mix, Router


class NoCache(CachePolicy):
    """y = M(q)."""

    name: ClassVar[str] = "none"
    keeps: ClassVar[bool] = False
    routed: ClassVar[bool] = False

    def mix(self, router: Router, asked: Asked) -> Mix:
        """Never asked."""
        return Mix()
