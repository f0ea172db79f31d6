"""Checks of whole numbers and row numbers that a caller gives as lists, arrays or tensors; bools and floats are not accepted."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

_LARGEST = (1 << 63) - 1


def is_whole(x: Any) -> bool:
    """Whether x is a whole number of Python or numpy, and not a bool."""
    return isinstance(x, Integral) and not isinstance(x, bool)


def plain_numbers(x: Tensor) -> bool:
    """Whether x is a dense tensor of whole numbers or bools whose values can be read."""
    ordinary = x.layout == torch.strided and not (x.is_nested or x.is_meta or x.is_quantized)
    return ordinary and not (x.is_floating_point() or x.is_complex())


def whole(name: str, given: Any, what: str) -> int:
    """A whole number of at least 0. Raises InputError with the argument's name and what it must be (`what`)."""
    if not is_whole(given) or given < 0:
        raise InputError(f"{name}={given!r} must be a whole number {what}")
    return operator.index(given)


def numbers(given: Any) -> np.ndarray | None:
    """[n] whole numbers (int64) or bools of a list, an array or a tensor; None if it has anything else."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy() if plain_numbers(given) else None
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | np.ndarray):
        given = _listed(given)
    if not isinstance(given, np.ndarray) or given.ndim != 1 or given.dtype.kind not in "iub":
        return None
    return given if given.dtype.kind == "b" else given.clip(max=_LARGEST).astype(np.int64)


def _listed(given: Iterable[Any]) -> np.ndarray | None:
    single = (np.generic, Tensor)
    items: list[Any] = [x.item() if isinstance(x, single) and x.ndim == 0 else x for x in given]
    if items and all(isinstance(x, bool) for x in items):
        return np.array(items, bool)
    if not all(is_whole(x) for x in items):
        return None
    return np.array([min(max(x, -_LARGEST), _LARGEST) for x in items], np.int64)


def replaced(count: int, rows: np.ndarray) -> np.ndarray:
    """int64 [count], where rows are found among `count` rows and, behind them, those that replace the given ones in order."""
    source = np.arange(count)
    source[rows] = count + np.arange(len(rows))
    return source


def row_numbers(rows: Any, count: int) -> np.ndarray:
    """int64 [n], numbers of the selected rows of `count`. rows: row numbers, or one bool a row (True: selected)."""
    found = numbers(rows)
    if found is None or found.dtype == bool and len(found) != count:
        if found is not None:
            given = f"{len(found)} truth values"
        elif isinstance(rows, Tensor) and rows.layout != torch.strided:
            given = f"a tensor of layout {rows.layout}"
        elif isinstance(rows, Tensor | np.ndarray) and not getattr(rows, "is_nested", False):
            given = f"{rows.dtype} {tuple(rows.shape)}"
        else:
            given = repr(rows)[:60]
        raise InputError(
            f"rows must be a list of whole numbers from 0 to {count - 1}, or {count} truth values (True: the row is taken), "
            f"and {given} was given"
        )
    if found.dtype == bool:
        return np.flatnonzero(found)
    wrong = found[(found < 0) | (found >= count)]
    if len(wrong):
        raise InputError(f"row {wrong[0]} does not exist; the state has {count} rows, numbered from 0")
    return found
