"""What the commands on sessions share: loading, the session file, and text that is safe to show."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from ..checkpoint import load
from ..errors import StorageError
from ..machine import keep_freed_memory, use_threads
from .session import Session


def open_session(run: Path, file: Path | None, device: str, threads: int | None) -> Session:
    """A session with a run's model: that of `file` where it is there, a new one otherwise. `demo` is the model that ships.

    Raises CheckpointError, SessionFileError and its kinds, ConfigError, and StorageError where `file` could not be saved.
    """
    from ..demo import run_folder
    from ..train.precision import chosen_device

    use_threads(threads)
    if file is not None and not file.parent.is_dir():
        raise StorageError(f"cannot write {file}: the folder {file.parent} is not there: create it, or choose another one")
    keep_freed_memory()
    model, tokenizer = load(run_folder(run), device=chosen_device(device))
    if file is not None and file.exists():
        return Session.load(file, model, tokenizer)
    return Session(model, tokenizer)


def shown(text: str, out: TextIO) -> str:
    """`text`, without characters that would command a terminal where `out` is one."""
    if not out.isatty():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
