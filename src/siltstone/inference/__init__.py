"""Sessions: a model reading one text for as long as it lasts; their files, sampling, streams of bytes, receipts.

Names are imported on first use: signals and the terminal are needed before torch is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Mark, Session

__all__ = ["Mark", "Session"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import session

    return getattr(session, name)
