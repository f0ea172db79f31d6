"""Older names of keys: one table.

In a configuration that a user writes, an older name gives a warning, once a process. In files that Siltstone wrote, it gives
none. Fingerprints are computed from the older names, so that fingerprints of older models do not change.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, RenamedKeyWarning


@dataclass(frozen=True)
class Alias:
    """An older name of a key of a layer or model; with a family, of an option of some of its members."""

    old: str
    new: str
    family: str = ""
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.family}_options {self.old!r}" if self.family else f"key {self.old!r}"


ALIASES = (Alias("rate", "inner_lr", "memory", ("deep", "titans")),)
_told: set[Alias] = set()
Rename = Callable[[str, Any, dict[str, Any]], dict[str, Any]]


def current(keys: dict[str, Any], names: Mapping[str, Any] | None = None, warn: bool = True) -> dict[str, Any]:
    """Renames keys, flat as in a file, to their present names, also inside options and inside single blocks.

    names   family -> member, for keys that do not name the member themselves
    Raises ConfigError if the older and the present name are both given.
    """
    return _walk(keys, names or {}, lambda family, member, given: options(family, member, given, warn))


def older(keys: dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `current`: every key under its oldest name."""

    def rename(family: str, member: Any, given: dict[str, Any]) -> dict[str, Any]:
        back = {alias.new: alias.old for alias in reversed(_of(family, member))}
        return {back.get(key, key): value for key, value in given.items()}

    return _walk(keys, names, rename)


def options(family: str, member: Any, given: dict[str, Any], warn: bool = True) -> dict[str, Any]:
    """The options of one member under their present names; family "": the keys of a layer or model."""
    found = dict(given)
    for alias in _of(family, member):
        if alias.old not in found:
            continue
        if alias.new in found:
            raise ConfigError(f"{alias.old!r} is an older name of {alias.new!r}, and both are given; leave {alias.old!r} out")
        found = {alias.new if key == alias.old else key: value for key, value in found.items()}
        if warn and alias not in _told:
            _told.add(alias)
            message = f"{alias} is now named {alias.new!r}; the older name still works, write the new one"
            warnings.warn(message, RenamedKeyWarning, stacklevel=_outside())
    return found


def _of(family: str, member: Any) -> list[Alias]:
    return [x for x in ALIASES if x.family == family and (not family or isinstance(member, str) and member in x.members)]


def _walk(keys: dict[str, Any], names: Mapping[str, Any], rename: Rename) -> dict[str, Any]:
    out = rename("", None, keys)
    for family in ("compress", "memory", "cache"):
        member, key = keys.get(family, names.get(family)), f"{family}_options"
        names = {**names, family: member}
        if isinstance(out.get(key), dict):
            out[key] = rename(family, member, out[key])
    if isinstance(out.get("layers"), dict):
        blocks = out["layers"].items()
        out["layers"] = {n: _walk(block, names, rename) if isinstance(block, dict) else block for n, block in blocks}
    return out


def _outside() -> int:
    """The stack level of the first caller outside this package, to which a warning points."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "siltstone":
        level, frame = level + 1, frame.f_back
    return level
