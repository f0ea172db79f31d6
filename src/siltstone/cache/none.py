"""No cache: one endless segment, the plain recurrence."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .base import CachePolicy, Mix, Router


class NoCache(CachePolicy):
    """y = M(q)."""

    name: ClassVar[str] = "none"
    keeps: ClassVar[bool] = False
    routed: ClassVar[bool] = False

    def mix(self, router: Router, scores: Tensor, online: Tensor | None, hidden: Tensor | None, newest_last: bool) -> Mix:
        """Never asked."""
        return Mix()
