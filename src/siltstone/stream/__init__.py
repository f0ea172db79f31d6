"""Sessions: a model reading one text for as long as it lasts; their files, sampling, streams of bytes, receipts."""

from __future__ import annotations

from .session import Mark, Session

__all__ = ["Mark", "Session"]
