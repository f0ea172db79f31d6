"""Model sizes by name. `presets.tiny(vocab_size=8192, window=64)` gives an `LMConfig`; any key may be overridden.

| name  | about  | depth | d_model | heads | window | segment |
|-------|--------|-------|---------|-------|--------|---------|
| nano  | 0.65 M |   3   |    96   |   3   |   64   |   64    |
| tiny  | 2.3 M  |   4   |   160   |   5   |   64   |  128    |
| small | 17 M   |   6   |   384   |   6   |  128   |  256    |
| base  | 133 M  |  12   |   768   |  12   |  256   |  256    |
| large | 352 M  |  20   |  1024   |  16   |  512   |  512    |

All have logarithmic segments: time a token and memory are O(log t) after t tokens, nearly constant for long texts.
Parameter counts are with 2,048 (nano), 4,096 (tiny), 8,192 (small) or 32,768 (base, large) token ids.
"""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from .model import LMConfig

_SIZES: dict[str, dict[str, Any]] = {
    "nano": dict(depth=3, d_model=96, heads=3, window=64, segment=64),
    "tiny": dict(depth=4, d_model=160, heads=5, window=64, segment=128),
    "small": dict(depth=6, d_model=384, heads=6, window=128, segment=256),
    "base": dict(depth=12, d_model=768, heads=12, window=256, segment=256),
    "large": dict(depth=20, d_model=1024, heads=16, window=512, segment=512),
}


def names() -> list[str]:
    """The presets, smallest first."""
    return list(_SIZES)


def get(name: str, /, vocab_size: int, **keys: Any) -> LMConfig:
    """The preset called `name`, with `keys` changed."""
    if name not in _SIZES:
        raise ConfigError(f"preset {name!r} is not known; choose one of {names()}")
    return LMConfig.from_dict({**_SIZES[name], "segments": "logarithmic", "vocab_size": vocab_size, **keys})


def nano(vocab_size: int, **keys: Any) -> LMConfig:
    """About 0.65 M parameters: for tests and first tries."""
    return get("nano", vocab_size, **keys)


def tiny(vocab_size: int, **keys: Any) -> LMConfig:
    """About 2.3 M parameters: trains in an hour on a laptop."""
    return get("tiny", vocab_size, **keys)


def small(vocab_size: int, **keys: Any) -> LMConfig:
    """About 17 M parameters."""
    return get("small", vocab_size, **keys)


def base(vocab_size: int, **keys: Any) -> LMConfig:
    """About 133 M parameters."""
    return get("base", vocab_size, **keys)


def large(vocab_size: int, **keys: Any) -> LMConfig:
    """About 352 M parameters."""
    return get("large", vocab_size, **keys)
