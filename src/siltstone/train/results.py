"""The results of a laboratory: a JSON file with a checksum, in which every run has what the report needs."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, FormatWarning
from ..io import read_checked, write_checked
from ..io.parse import is_count
from ..io.regular import reason
from ..text.library import quoted

COSTS = ("parameters", "state_bytes", "bytes_read", "flops")


def read_results(path: Path, key: str) -> list[dict[str, Any]]:
    """The runs of a file of results; none if there is no file. key: of the recipe.

    Raises CheckpointError for a file that cannot be read or was altered, ConfigError for one of another recipe. Warns with
    FormatWarning for a file of an early version, without a checksum.
    """
    try:
        found, sealed = read_checked(path)
        _check(found)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the results {path} cannot be used: {quoted(reason(error))}; restore the file from a copy, or give another folder"
        ) from error
    if found["key"] != key:
        raise ConfigError(f"{path.parent} has the results of another recipe; give another folder")
    if not sealed:
        warnings.warn(
            f"{path} was written by an early version, without a checksum; the next run adds it", FormatWarning, stacklevel=3
        )
    return found["runs"]


def write_results(path: Path, found: dict[str, Any]) -> None:
    """Replaces the file atomically. Raises StorageError."""
    write_checked(path, found)


def _check(found: dict[str, Any]) -> None:
    """ValueError, KeyError, TypeError or AttributeError unless every run has its parts."""
    if not isinstance(found["key"], str):
        raise ValueError("it names no recipe")
    for run in found["runs"]:
        points = [x for point in run["curve"] for x in point]
        rows = [x for row in run["rows"] for x in (row["mean"], row["count"])]
        numbers = [run["seconds"], *points, *rows, *run["right"].values(), *(run["costs"][key] for key in COSTS)]
        counts = [run["seed"], run["steps"], run["tokens"], run["mlp_dim"]]
        texts = [run["arm"], *(row["score"] for row in run["rows"]), *(str(row["at"]["length"]) for row in run["rows"])]
        if not all(map(is_count, counts)) or not all(isinstance(x, str) for x in texts) or not all(map(_is_number, numbers)):
            raise ValueError(f"the run {quoted(run['arm'], 40)} has values that are not its own kind")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
