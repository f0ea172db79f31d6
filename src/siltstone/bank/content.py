"""The bank of segments that end where the caller cuts, or when they are full: every checkpoint is kept."""

from __future__ import annotations

from typing import ClassVar

from .constant import ConstantBank


class ContentBank(ConstantBank):
    """As ConstantBank, with cuts."""

    name: ClassVar[str] = "content"
    cuts: ClassVar[bool] = True
    growth: ClassVar[str] = "O(cuts + t/C): one checkpoint per cut, and every C = {segment} tokens without a cut"
