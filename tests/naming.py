"""What a test is called and marked: short ids that say what is tried, and a mark for each update rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from siltstone.config import registry

MOST = 44  # characters of one parameter
RULES = [cls.name for cls in registry.members("memory").values()]
APART = ("house", "examples")  # documents, pictures, the timing of commands, the shape of the source
LONG = (
    "torture",
    "house",
    "examples",
    "demo",
    "doctor",
    "train",
    "cli",
    "tools",
    "inference",
)  # with tests of seconds
# Keys whose values say which key they are of.
NAMED = {"memory", "cache", "compress", "segments", "start", "pattern", "gate", "router", "position", "evict"}


def short(value: Any) -> str | None:
    """A parameter in a few characters; None: pytest's own way is short."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, dict):
        return _cut(_keys(value) or "defaults")
    if isinstance(value, (list, tuple)):
        return _cut(" ".join(short(x) or str(x) for x in value))
    if type(value).__str__ is not object.__str__ and hasattr(value, "factor"):
        return str(value)
    if isinstance(value, bytes) and len(value) > 16:
        return _cut(repr(value[:16]))
    if isinstance(value, (str, Path)):
        return _cut(str(value))
    return None


def _keys(keys: dict[Any, Any]) -> str:
    parts = []
    for key, value in keys.items():
        if isinstance(value, dict):
            parts.append(_keys(value) if str(key).endswith("_options") else f"{key}: {_keys(value)}")
        else:
            parts.append(str(value) if key in NAMED else f"{key}={value}")
    return " ".join(parts)


def _cut(text: str) -> str:
    text = re.sub(r"[^\x20-\x7e]|[\[\]]", "", text)
    return text if len(text) <= MOST else text[: MOST - 2] + ".."


def rules(item: Any) -> set[str]:
    """The update rules that a test tries: its file's, and those of its parameters."""
    found: list[Any] = [item.path.stem.removeprefix("test_")]
    for name, value in (item.callspec.params if hasattr(item, "callspec") else {}).items():
        keys = getattr(value, "cfg", value)
        if isinstance(keys, dict):
            layers = keys.get("layers")
            found += [keys.get("memory")]
            found += [x.get("memory") for x in layers.values() if isinstance(x, dict)] if isinstance(layers, dict) else []
        elif isinstance(value, str) and name in ("memory", "rule", "kind", "name", "keys"):
            found += value.split()
    return {name for name in RULES if name in found}
