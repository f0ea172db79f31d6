"""What the commands on sessions share: a run's model, with threads to its size, and a session of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..stream import Session


def open_session(run: Path, file: Path | None, device: str, threads: int | None) -> Session:
    """A session with a run's model: that of `file` where it is there, a new one otherwise. `demo` is the model that ships.

    Raises CheckpointError, SessionFileError and its kinds, ConfigError, and StorageError where `file` could not be saved.
    """
    from ..checkpoint import load
    from ..demo import run_folder
    from ..errors import StorageError
    from ..machine import keep_freed_memory
    from ..stream import Session
    from ..train.precision import chosen_device

    folder = run_folder(run)
    threads_to_size(folder, threads)
    if file is not None and not file.parent.is_dir():
        raise StorageError(f"cannot write {file}: the folder {file.parent} is not there: create it, or choose another one")
    keep_freed_memory()
    model, tokenizer = load(folder, device=chosen_device(device))
    if file is not None and file.exists():
        return Session.load(file, model, tokenizer)
    return Session(model, tokenizer)


def threads_to_size(folder: Path, threads: int | None) -> None:
    """`use_threads` for the model in a folder. One that cannot be read gets none: loading it tells what is wrong."""
    from safetensors import SafetensorError, safe_open

    from ..checkpoint import WEIGHTS
    from ..machine import use_threads

    parameters = None
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]
        parameters = sum(map(math.prod, shapes))
    except (OSError, SafetensorError):
        pass
    use_threads(threads, parameters)
