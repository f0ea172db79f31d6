"""Shared checks of configurations. Each raises ConfigError with the key, what was given, what is expected, and the mend."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import fields
from typing import Any

from ..errors import ConfigError
from . import registry

TOLD = 4096  # a message names both limits if the upper one is at most this
WIDEST = 2**16  # largest width or number of heads: weights have this size
SEEN = 2**20  # largest number of tokens kept one by one: ring buffers have this size
LONGEST = 2**40  # largest number of tokens, checkpoints or bytes that are only counted


def require(ok: bool, message: str) -> None:
    """Raise ConfigError with the message unless ok."""
    if not ok:
        raise ConfigError(message)


def one_of(key: str, value: Any, allowed: list[Any]) -> None:
    """Raise ConfigError unless the value is one of those allowed."""
    if value not in allowed:
        near = difflib.get_close_matches(str(value), [str(a) for a in allowed], 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"{key}={value!r} is not known; choose one of {allowed}{hint}")


def whole(key: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless the value is a whole number within the limits."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number or value < least or (most is not None and value > most):
        allowed = f"of at most {most:,}" if number and value > least else f"of at least {least}"
        allowed = f"from {least} to {most}" if most is not None and most <= TOLD else allowed
        raise ConfigError(f"{key}={value!r} must be a whole number {allowed}")


def number_between(value: Any, low: float, high: float) -> bool:
    """Whether the value is a number (not a bool) with low < value < high."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low < value < high


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def nearest(given: int, choices: list[int]) -> int:
    """The choice nearest to what was given; the smaller of two equally near; 1 only if there is no other."""
    return min([n for n in choices if n > 1] or choices, key=lambda n: (abs(n - given), n))


def whole_updates(cfg: Any, batch: int) -> None:
    """Raise ConfigError unless `batch` writes are a whole number of updates of the memory."""
    if batch % cfg.group:
        raise ConfigError(
            f"memory_options inner_batch={batch} is not a multiple of the {cfg.group} writes an update that compress_every="
            f"{cfg.compress_every} with rate={cfg.rate} makes; choose inner_batch={-(-batch // cfg.group) * cfg.group}"
        )


def known(keys: dict[str, Any], names: set[str], owner: str) -> None:
    """Raise ConfigError for an unknown key. The message says where the key belongs, or which key was probably meant."""
    unknown = sorted((k for k in keys if k not in names), key=str)
    if unknown:
        key = str(unknown[0])
        near = difflib.get_close_matches(key, sorted(names), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {sorted(names)}"
        raise ConfigError(f"{key!r} is not a key of {owner}; {elsewhere(key, keys[unknown[0]], owner) or hint}")


def elsewhere(key: str, value: Any, owner: str) -> str:
    """Where a key belongs that is an option of a member, or a key of a whole model; "" for any other."""
    from . import model as config

    if key in {f.name for f in fields(config.LMConfig)} - {"layer"}:
        if owner != "a layer":
            return f"all blocks share it: set {key} beside `layers`"
        return "it is a key of a whole model: use st.LM, with st.presets or st.LMConfig.from_dict"
    for family in registry.FAMILIES:
        owners = [name for name, cls in registry.members(family).items() if key in {f.name for f in fields(cls.Options)}]
        if owners:
            of = " and ".join(f"{family}={name!r}" for name in owners)
            plain = isinstance(value, str | int | float | bool) or value is None
            return f"it is an option of {of}: write {family}_options={json.dumps({key: value if plain else '...'})}"
    return ""
