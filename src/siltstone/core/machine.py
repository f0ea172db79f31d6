"""The machine: name of the processor, number of threads, and memory that is kept for reuse."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

from ..errors import ConfigError
from .words import counted

SMALL = 20_000_000  # parameters; for smaller models, two threads gain little on idle processors and lose much on busy ones
MOST = 256  # maximum number of threads on machines with fewer processors

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt(3)
_torch: int | None = None  # torch's default number of threads
_chosen: tuple[int, str] | None = None  # the number that `use_threads` set, and the reason


def processor() -> str:
    """The processor's name if the system reports it, otherwise the type of machine."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def use_threads(threads: int | None, parameters: int | None = None, recorded: int | None = None) -> None:
    """Sets the number of CPU threads of torch in this process, from the first of these that is given:

    threads      the user's choice
    recorded     the number that a run began with, so that it continues with the same bits
    the environment variable OMP_NUM_THREADS
    parameters   number of parameters of the model: 1 thread below SMALL, otherwise torch's default
    Raises ConfigError, see `check_threads`.
    """
    global _torch, _chosen
    check_threads(threads)
    import torch

    if _torch is None:
        _torch = torch.get_num_threads()
    if threads is not None:
        count, why = threads, "as --threads says"
    elif recorded is not None:
        count, why = recorded, "as the run began; --threads changes it"
    elif os.environ.get("OMP_NUM_THREADS"):
        count, why = _torch, "as OMP_NUM_THREADS says"
    elif parameters is not None and parameters < SMALL:
        count, why = 1, "chosen for a small model, --threads changes it"
    else:
        count, why = _torch, "chosen for a large model, --threads changes it"
    torch.set_num_threads(count)
    _chosen = count, why


def check_threads(threads: int | None) -> None:
    """ConfigError for a number of threads below 1, or above both MOST and the number of processors."""
    most = max(MOST, processors())
    if threads is not None and not 1 <= threads <= most:
        raise ConfigError(f"threads={threads} must be a number from 1 to {most}; leave it out for one that suits the model")


def threads_said() -> str:
    """For receipts: the number of threads of torch; if `use_threads` set it, also the number of processors and the reason."""
    import torch

    count = torch.get_num_threads()
    if _chosen is None or _chosen[0] != count:
        return counted(count, "thread")
    return f"{counted(count, 'thread')} (of {processors()}; {_chosen[1]})"


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for reuse instead of returning it to the system.

    Training steps and chunks of a stream allocate blocks of the same large sizes again and again. Otherwise each block is
    mapped, cleared by the kernel and unmapped, which took a third of the time of a step on two cores. It applies to the whole
    process; it does nothing if the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Returns memory that the C library keeps after it was freed to the system. Does nothing if it is not glibc."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
