"""The result of one run of a laboratory: a JSON file with a checksum, with what the report needs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..io import read_checked, write_checked
from ..io.parse import is_count
from ..io.regular import reason
from ..text.library import quoted

COSTS = ("parameters", "state_bytes", "bytes_read", "flops")


def read_result(path: Path, key: str) -> dict[str, Any]:
    """The run. key: of the recipe.

    Raises CheckpointError for a file that cannot be read or was altered, ConfigError for one of another recipe.
    """
    try:
        found, sealed = read_checked(path)
        if not sealed:
            raise ValueError("it has no checksum")
        _check(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be used: {quoted(reason(error))}; restore it, or remove its folder to train this run again"
        ) from error
    if found["key"] != key:
        raise ConfigError(f"{path.parent} has the result of another recipe; give another folder")
    return found["run"]


def write_result(path: Path, key: str, run: dict[str, Any]) -> None:
    """Replaces the file atomically. Raises StorageError."""
    write_checked(path, {"key": key, "run": run})


def _check(found: dict[str, Any]) -> None:
    """ValueError, KeyError, TypeError or AttributeError unless the run has its parts."""
    run = found["run"]
    points = [x for point in run["curve"] for x in point]
    rows = [x for row in run["rows"] for x in (row["mean"], row["count"])]
    numbers = [run["seconds"], *points, *rows, *run["right"].values(), *(run["costs"][key] for key in COSTS)]
    counts = [run["seed"], run["steps"], run["tokens"], run["mlp_dim"]]
    texts = [found["key"], run["arm"], *(row["score"] for row in run["rows"]), *(str(row["at"]["length"]) for row in run["rows"])]
    if not all(map(is_count, counts)) or not all(isinstance(x, str) for x in texts) or not all(map(_is_number, numbers)):
        raise ValueError(f"the run {quoted(run['arm'], 40)} has values that are not its own kind")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
