"""The library `transformers`, imported on first use, without its progress bars and notices."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import Any

from ..errors import SiltstoneError, UnsupportedModel
from ..text.library import quoted

EXTRA = "install the extra: pip install 'siltstone[hf]'"
LEAST = (5, 24)
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # nothing is downloaded, and no code of a model is run
BAR = "tqdm"  # the module for GGUF files has a progress bar of its own


def transformers() -> Any:
    """The library. Raises UnsupportedModel if it is missing, or older than this code needs."""
    try:
        found = importlib.import_module("transformers")
    except ImportError:
        raise UnsupportedModel(f"pretrained models are read with transformers, which is not installed; {EXTRA}") from None
    version = re.match(r"(\d+)\.(\d+)", str(found.__version__))
    if version is None or not LEAST <= (int(version[1]), int(version[2])) < (6, 0):
        raise UnsupportedModel(f"pretrained models need transformers 5.24 to 5.x, and {found.__version__} is installed; {EXTRA}")
    return found


@contextlib.contextmanager
def reading(library: Any, words: str, kind: type[SiltstoneError] = UnsupportedModel) -> Iterator[None]:
    """Quietly; every error of the library becomes one of a kind of ours, that begins with `words`."""
    try:
        with quiet(library):
            yield
    except BaseException as error:
        if isinstance(error, MemoryError) or not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{words}: {quoted(error)}") from error


@contextlib.contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Without the library's progress bars and notices; both are restored."""
    log, gguf = library.utils.logging, importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bars, level, bar = log.is_progress_bar_enabled(), log.get_verbosity(), getattr(gguf, BAR, None)
    log.disable_progress_bar()
    log.set_verbosity_error()
    setattr(gguf, BAR, lambda items, **_: items)
    try:
        yield
    finally:
        setattr(gguf, BAR, bar)
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
