"""Pretrained decoders of the library `transformers`: read as models of ours, and written back. Needs the extra `hf`.

Importing this package also makes transformers load run folders: `AutoConfig`, `AutoModelForCausalLM`, `AutoTokenizer`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .exporting import export
from .importing import BLOCKS, blocks, from_hf, import_run
from .registration import register_on_import

if TYPE_CHECKING:
    from .run.cache import SiltstoneCache
    from .run.config import SiltstoneConfig
    from .run.model import SiltstoneForCausalLM
    from .run.tokenizer import SiltstoneTokenizer

_HOMES = {
    "SiltstoneCache": "run.cache",
    "SiltstoneConfig": "run.config",
    "SiltstoneForCausalLM": "run.model",
    "SiltstoneTokenizer": "run.tokenizer",
}

__all__ = [
    "BLOCKS",
    "blocks",
    "SiltstoneCache",
    "SiltstoneConfig",
    "SiltstoneForCausalLM",
    "SiltstoneTokenizer",
    "export",
    "from_hf",
    "import_run",
]

register_on_import()


def __getattr__(name: str) -> Any:
    """The classes, which need transformers, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
