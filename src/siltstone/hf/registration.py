"""`import siltstone.hf` makes transformers' Auto classes load run folders.

transformers takes seconds to import, and an export does not need it. So the classes are registered when transformers is imported:
at once if it is there already.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ..errors import UnsupportedModel

LIBRARY, CLASSES = "transformers", f"{__package__}.run"


def register_on_import() -> None:
    """Registers the classes now, or right after the first import of transformers."""
    if sys.modules.get(LIBRARY) is not None:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def register() -> None:
    """Registers configuration, model and tokenizer; warns if the installed transformers is of another version."""
    try:
        importlib.import_module(CLASSES)  # does nothing if that package is itself what imports transformers: it registers later
    except UnsupportedModel as error:
        warnings.warn(f"transformers cannot load run folders: {error}", stacklevel=2)


class _Finder(MetaPathFinder):
    """Finds transformers as the other finders do, with a loader that calls `register`."""

    def __init__(self) -> None:
        self._asking = threading.local()  # whether this thread asks the other finders

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != LIBRARY or getattr(self._asking, "now", False):
            return None
        self._asking.now = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking.now = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """The loader of transformers, which registers our classes afterwards."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        register()
