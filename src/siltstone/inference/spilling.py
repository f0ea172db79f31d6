"""Sessions whose blocks are in a page file."""

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
    """The state with its blocks in page files, if there are any. Raises InputError for a state without blocks."""
    if spill is None:
        return state
    if not isinstance(state, LMState):
        raise InputError(f"spill is for an LM with cache='blocks', and the state is a {type(state).__name__}; leave spill out")
    return state.spilled(spill)
