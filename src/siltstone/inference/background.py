"""Threads that work in the background and never hold up the end of the process, nor crash it."""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Callable

PATIENCE = 20.0  # seconds at the end of the process for a thread to notice; one call of the C++ compiler takes a few
_running: list[threading.Thread] = []


class Stopped(BaseException):
    """The process ends."""


def background(work: Callable[[], object]) -> threading.Thread:
    """Starts a thread. When the process ends, `Stopped` is raised in it, and the process waits until it has stopped.

    Python would end the thread of a running compiler in the middle of C++ code, and the process would abort.
    """
    if not _running:
        atexit.register(_end)
    _running[:] = [thread for thread in _running if thread.is_alive()]
    thread = threading.Thread(target=work, name="siltstone compiler", daemon=True)
    _running.append(thread)
    thread.start()
    return thread


def _end() -> None:
    alive = [thread for thread in _running if thread.is_alive()]
    for thread in alive:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stopped))
    for thread in alive:
        thread.join(PATIENCE)
