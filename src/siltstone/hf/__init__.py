"""Pretrained decoders of the library `transformers`: read as models of ours, and written back. Needs the extra `hf`."""

from __future__ import annotations

from .exporting import export
from .importing import from_hf, import_run

__all__ = ["export", "from_hf", "import_run"]
