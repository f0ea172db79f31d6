"""Parsing of untrusted JSON: strict, with limits for depth and numbers."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 64  # maximum nesting of lists and objects
DIGITS = 20  # maximum digits of a whole number: enough for 64 bits


def is_count(value: Any) -> bool:
    """Whether a value of JSON is a whole number from 0 to 2^62 - 1, and not `true`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def parse_json(text: str | bytes, deepest: int = DEEPEST) -> Any:
    """The value of a JSON text.

    Raises ValueError, with a short reason, for text that is not UTF-8 or not JSON, for NaN and Infinity, for numbers out of the
    range of a float or of 64 bits, for an object with a key twice, and for values nested more than `deepest` deep.
    """
    try:
        value = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            parse_constant=_constant,
            parse_int=_whole,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {deepest} deep") from None
    inside, depth = [value], 0
    while inside := [x for x in inside if isinstance(x, dict | list)]:
        depth += 1
        if depth > deepest:
            raise ValueError(f"it is nested more than {deepest} deep")
        inside = [y for x in inside for y in (x.values() if isinstance(x, dict) else x)]
    return value


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The same for a text that must be a JSON object."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object, and it is a {type(value).__name__}")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number has {len(digits)} digits; at most {DIGITS} are allowed")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if value - value != 0:  # infinite
        raise ValueError(f"the number {text[:20]} is out of the range of a float")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice[:40]!r} twice")
    return found
