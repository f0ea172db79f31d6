"""Conversion of values for JSON."""

from __future__ import annotations

import json
import math
from typing import Any


def plain(value: Any) -> Any:
    """`value` with NaN and infinity replaced by None, and tuples by lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_line(value: Any) -> str:
    """`value` as JSON in one line of ASCII, without NaN."""
    return json.dumps(plain(value), allow_nan=False)
