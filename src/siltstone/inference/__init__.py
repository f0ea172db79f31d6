"""Sessions: a model that reads one text of any length; session files, sampling, streams of bytes, receipts.

Names are imported on first use: the command line handles signals and the terminal before it imports torch.
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
