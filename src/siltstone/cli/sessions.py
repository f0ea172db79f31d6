"""What the commands on sessions share: a run's model, with threads to its size, and a session of it."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.regular import is_folder
from .guard import hold

if TYPE_CHECKING:
    from ..inference import Session


def open_session(run: Path, file: Path | None, device: str, threads: int | None) -> Session:
    """A session with a run's model: that of `file` where it is there, a new one otherwise. `demo` is the model that ships.

    The file is claimed until the command ends. Raises CheckpointError, SessionFileError and its kinds, ConfigError, StorageError
    where `file` could not be saved, and its kind InUse where another process has claimed it.
    """
    from ..core.machine import keep_freed_memory
    from ..demo import run_folder
    from ..errors import StorageError
    from ..inference import Session
    from ..io import claim
    from ..io.atomic import check_place
    from ..models.checkpoint import load
    from ..train.precision import chosen_device

    folder = run_folder(run)
    threads_to_size(folder, threads)
    if file is not None and not file.parent.is_dir():
        raise StorageError(f"cannot write {file}: the folder {file.parent} is not there: create it, or choose another one")
    if file is not None and not is_folder(file):  # which reading will name
        check_place(file, streams=False)
        hold(claim(file))
    keep_freed_memory()
    model, tokenizer = load(folder, device=chosen_device(device))
    if file is not None and file.exists():
        return Session.load(file, model, tokenizer)
    return Session(model, tokenizer)


def threads_to_size(folder: Path, threads: int | None) -> None:
    """`use_threads` for the model in a folder. One that cannot be read gets none: loading it tells what is wrong."""
    from ..core.machine import use_threads
    from ..io import SEAL
    from ..io.tensor_file import open_tensors
    from ..models.checkpoint import WEIGHTS

    parameters = None
    with contextlib.suppress(OSError, ValueError), open_tensors(folder / WEIGHTS, SEAL) as weights:
        parameters = sum(math.prod(entry.shape) for entry in weights.entries.values())
    use_threads(threads, parameters)
