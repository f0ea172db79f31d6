"""Siltstone: language models whose memory grows slower than their context.

Names are imported on first use, so that `import siltstone` costs nothing and the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors
    from .config import presets
    from .config.layer import LayerConfig
    from .config.model import LMConfig
    from .demo import demo_run, lookup_run
    from .hf import from_hf
    from .inference.batch import Batch
    from .inference.chat import Chat
    from .inference.session import Session
    from .models.checkpoint import load, save
    from .models.fingerprint import freeze
    from .models.layer import MemoryCaching
    from .models.lm import LM
    from .models.stream_state import LMState
    from .serve.client import connect
    from .text import ByteTokenizer, load_tokenizer, train_bpe

from .core.version import VERSION

__version__ = VERSION

_HOMES = {
    "LM": "models.lm",
    "LMState": "models.stream_state",
    "MemoryCaching": "models.layer",
    "LMConfig": "config",
    "LayerConfig": "config",
    "Session": "inference.session",
    "Batch": "inference.batch",
    "Chat": "inference.chat",
    "save": "models.checkpoint",
    "load": "models.checkpoint",
    "ByteTokenizer": "text",
    "load_tokenizer": "text",
    "train_bpe": "text",
    "demo_run": "demo",
    "lookup_run": "demo",
    "connect": "serve.client",
    "freeze": "models.fingerprint",
    "from_hf": "hf",
    "presets": "config.presets",
    "errors": "errors",
}

__all__ = [
    "LM",
    "Batch",
    "ByteTokenizer",
    "Chat",
    "LMConfig",
    "LMState",
    "LayerConfig",
    "MemoryCaching",
    "Session",
    "connect",
    "demo_run",
    "errors",
    "freeze",
    "from_hf",
    "load",
    "load_tokenizer",
    "lookup_run",
    "presets",
    "save",
    "train_bpe",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'siltstone' has no attribute {name!r}")
    module = importlib.import_module(f".{_HOMES[name]}", __name__)
    return module if _HOMES[name].split(".")[-1] == name else getattr(module, name)
