"""The keys of a configuration (`LayerConfig` or `LMConfig`): all values, the defaults, and the overrides."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any


def flat(cfg: Any) -> dict[str, Any]:
    """Every key and its value; for a model, its own keys and those of its layer."""
    keys = {f.name: getattr(cfg, f.name) for f in fields(cfg)}
    return flat(keys.pop("layer")) | keys if "layer" in keys else keys


def defaults(cfg: Any) -> dict[str, Any]:
    """The defaults of all keys; None for those that must be given."""
    found = {f.name: {} if f.default_factory is not MISSING else None if f.default is MISSING else f.default for f in fields(cfg)}
    return defaults(cfg.layer) | {key: value for key, value in found.items() if key != "layer"} if "layer" in found else found


def overrides(cfg: Any) -> dict[str, Any]:
    """The keys that are not at their defaults. A key that a later version adds does not change the result for older configs."""
    default = defaults(cfg)
    return {key: value for key, value in flat(cfg).items() if value != default[key]}
