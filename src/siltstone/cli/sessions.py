"""Shared code of the commands on sessions: loads a model, chooses the number of threads for it, opens a session."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .guard import hold

if TYPE_CHECKING:
    from ..config.model import LMConfig
    from ..inference import Session
    from ..models.lm import LM
    from ..text import Tokenizer


def open_session(
    run: Path, file: Path | None, device: str, threads: int | None, runtime: str = "auto", spill: Path | None = None
) -> Session:
    """A session of a trained model: the one in `file` if it exists, otherwise a new one. run: a folder, or demo (shipped).

    The file is claimed until the command ends. Raises CheckpointError, SessionFileError and its kinds, ConfigError, StorageError
    if `file` cannot be saved, and its kind InUse if another process has claimed it.
    """
    return open_sessions(run, [file], device, threads, runtime, spill)[0]


def open_sessions(
    run: Path, files: Sequence[Path | None], device: str, threads: int | None, runtime: str = "auto", spill: Path | None = None
) -> list[Session]:
    """`open_session` for several files and one model."""
    from ..inference import Session

    for file in files:
        _claim(file)
    model, tokenizer = open_model(run, device, threads)
    there = [file if file is not None and file.exists() else None for file in files]
    return [
        Session(model, tokenizer, runtime, spill) if file is None else Session.load(file, model, tokenizer, runtime, spill)
        for file in there
    ]


SECONDS = 30.0  # time between two saves


class Saves:
    """Saves a session now and then while a command uses it: every 30 seconds, but for at most about a tenth of the time.

    save    writes the session's file; None: nothing is saved
    made    whether it was saved
    """

    def __init__(self, save: Callable[[], Any] | None) -> None:
        self.save, self.made = save, False
        self._at, self._took = time.monotonic(), 0.0

    def now(self) -> None:
        """Save."""
        if self.save is not None:
            began = time.monotonic()
            self.save()
            self.made, self._at = True, time.monotonic()
            self._took = self._at - began

    def if_due(self) -> None:
        """Save if it is time."""
        if time.monotonic() - self._at >= max(SECONDS, 10 * self._took):
            self.now()


@contextlib.contextmanager
def kept_if_spilling_fails(session: Session, save: Callable[[], Any] | None) -> Iterator[None]:
    """If blocks cannot be written to their page file, the session goes back to where it was and is saved; the error goes on."""
    from ..errors import SpillFailed, StorageError

    mark = session.snapshot() if session.spills and save is not None and session.position else None
    try:
        yield
    except SpillFailed:
        if mark is not None and save is not None:
            with contextlib.suppress(StorageError):
                session.rollback(mark)
                save()
        raise


def open_model(run: Path, device: str, threads: int | None) -> tuple[LM, Tokenizer]:
    """A trained model and its tokenizer. run: a folder, or demo (shipped). Raises CheckpointError, ConfigError."""
    from ..core.machine import keep_freed_memory
    from ..demo import run_folder
    from ..models.checkpoint import load
    from ..train.precision import chosen_device

    folder = run_folder(run)
    threads_to_size(folder, threads)
    keep_freed_memory()
    return load(folder, device=chosen_device(device))


def _claim(file: Path | None) -> None:
    from ..errors import StorageError
    from ..io import claim
    from ..io.atomic import check_place
    from ..io.regular import is_folder

    if file is not None and not file.parent.is_dir():
        raise StorageError(f"cannot write {file}: the folder {file.parent} does not exist: create it, or choose another one")
    if file is not None and not is_folder(file):  # `Session.load` reports a folder
        check_place(file, streams=False)
        hold(claim(file))


def threads_to_size(folder: Path, threads: int | None) -> None:
    """`use_threads` for the model in a folder. If it cannot be read, its size is None; loading it reports the error."""
    from ..core.machine import use_threads
    from ..io import SEAL
    from ..io.tensor_file import open_tensors
    from ..models.checkpoint import WEIGHTS

    parameters = None
    with contextlib.suppress(OSError, ValueError), open_tensors(folder / WEIGHTS, SEAL) as weights:
        parameters = sum(math.prod(entry.shape) for entry in weights.entries.values())
    use_threads(threads, parameters)


def threads_to_config(cfg: LMConfig, threads: int | None) -> None:
    """`use_threads` for a model of this configuration."""
    from ..core.machine import use_threads
    from ..eval.costs import parameters

    use_threads(threads, parameters(cfg))
