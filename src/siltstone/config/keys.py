"""A configuration, `LayerConfig` or `LMConfig`, as keys: all of them, their defaults, and those that are not at them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any


def flat(cfg: Any) -> dict[str, Any]:
    """Every key and its value, those of a model's layers among them."""
    keys = {f.name: getattr(cfg, f.name) for f in fields(cfg)}
    return flat(keys.pop("layer")) | keys if "layer" in keys else keys


def defaults(cfg: Any) -> dict[str, Any]:
    """The defaults of all keys; None for those that must be given."""
    found = {f.name: {} if f.default_factory is not MISSING else None if f.default is MISSING else f.default for f in fields(cfg)}
    return defaults(cfg.layer) | {key: value for key, value in found.items() if key != "layer"} if "layer" in found else found


def overrides(cfg: Any) -> dict[str, Any]:
    """The keys that are not at their defaults: one that a later version adds leaves what was written before as it is."""
    default = defaults(cfg)
    return {key: value for key, value in flat(cfg).items() if value != default[key]}
