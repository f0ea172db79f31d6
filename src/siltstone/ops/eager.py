"""torch.compile: a call of a model runs as it is, eagerly.

Its plan is made of whole numbers on the host, other ones at every token, so that a compiler finds some sixty graphs in it and
makes them anew at every length of text.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Call = TypeVar("Call", bound=Callable[..., Any])


def eagerly(call: Call) -> Call:
    """The same call, which a compiler leaves alone; this is logged once, as a warning of the logger "siltstone"."""

    @functools.wraps(call)
    def run(*args: Any, **keys: Any) -> Any:
        return _uncompiled(call)(*args, **keys) if torch.compiler.is_compiling() else call(*args, **keys)

    return cast(Call, run)


_known: dict[Callable[..., Any], Callable[..., Any]] = {}


def _uncompiled(call: Callable[..., Any]) -> Callable[..., Any]:
    if not _known:
        logging.getLogger("siltstone").warning(
            "torch.compile leaves Siltstone's models as they are: their calls are planned token by token, and run eagerly"
        )
    if call not in _known:
        _known[call] = torch.compiler.disable(call)
    return _known[call]
