"""Siltstone: language models whose memory grows slower than their context.

Names are imported on first use, so that `import siltstone` costs nothing and the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors, presets
    from .checkpoint import load, save
    from .config import LayerConfig, LMConfig
    from .demo import demo_run
    from .fingerprint import freeze
    from .model.layer import MemoryCaching
    from .model.lm import LM
    from .model.stream_state import LMState
    from .stream.session import Session
    from .text import ByteTokenizer, load_tokenizer, train_bpe

__version__ = "0.1.0"

_HOMES = {
    "LM": "model.lm",
    "LMState": "model.stream_state",
    "MemoryCaching": "model.layer",
    "LMConfig": "config",
    "LayerConfig": "config",
    "Session": "stream.session",
    "save": "checkpoint",
    "load": "checkpoint",
    "ByteTokenizer": "text",
    "load_tokenizer": "text",
    "train_bpe": "text",
    "demo_run": "demo",
    "freeze": "fingerprint",
    "presets": "",
    "errors": "",
}

__all__ = [
    "LM",
    "ByteTokenizer",
    "LMConfig",
    "LMState",
    "LayerConfig",
    "MemoryCaching",
    "Session",
    "demo_run",
    "errors",
    "freeze",
    "load",
    "load_tokenizer",
    "presets",
    "save",
    "train_bpe",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'siltstone' has no attribute {name!r}")
    if not _HOMES[name]:
        return importlib.import_module(f".{name}", __name__)
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
