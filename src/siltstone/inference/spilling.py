"""Where a session keeps the blocks of cache="blocks": in chunks in memory, or in a page file."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InputError
from ..models.stream_state import LMState
from ..state.spilled import Spill

Spilling = Spill | str | os.PathLike[str] | None


def opened(spill: Spilling) -> Spill | None:
    """The page files of a folder. Raises SpillFailed if it cannot be written."""
    return spill if spill is None or isinstance(spill, Spill) else Spill(os.fspath(spill))


def spilled(state: Any, spill: Spill | None) -> Any:
    """The state as sessions keep it: blocks in page files, or in chunks. Raises InputError if there is nothing to spill."""
    if spill is None:
        return state.chunked() if isinstance(state, LMState) else state
    if not isinstance(state, LMState):
        raise InputError(f"spill is for an LM with cache='blocks', and the state is a {type(state).__name__}; leave spill out")
    return state.spilled(spill)
