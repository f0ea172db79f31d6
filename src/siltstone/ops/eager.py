"""Excludes a model's calls from torch.compile: they run eagerly.

A call's schedule consists of integers on the host that change with every token: a compiler would split the call into about sixty
graphs and recompile them for every length of text.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Call = TypeVar("Call", bound=Callable[..., Any])


def eagerly(call: Call) -> Call:
    """The same call, excluded from compilation; logs this once, as a warning of the logger "siltstone"."""

    @functools.wraps(call)
    def run(*args: Any, **keys: Any) -> Any:
        return _uncompiled(call)(*args, **keys) if torch.compiler.is_dynamo_compiling() else call(*args, **keys)

    return cast(Call, run)


_known: dict[Callable[..., Any], Callable[..., Any]] = {}


def _uncompiled(call: Callable[..., Any]) -> Callable[..., Any]:
    if not _known:
        logging.getLogger("siltstone").warning(
            "torch.compile does not compile Siltstone's models: their calls are scheduled on the host, and run eagerly"
        )
    if call not in _known:
        _known[call] = torch.compiler.disable(call)
    return _known[call]
