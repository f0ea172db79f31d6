"""The bank of segments that end where the caller cuts, and when they are full: every checkpoint is kept."""

from __future__ import annotations

from typing import ClassVar

from .constant import ConstantBank


class ContentBank(ConstantBank):
    """As with segments of constant length."""

    name: ClassVar[str] = "content"
    cuts: ClassVar[bool] = True
    growth: ClassVar[str] = "O(cuts + t/C): one checkpoint a cut, and every C = {segment} tokens where there is none"
