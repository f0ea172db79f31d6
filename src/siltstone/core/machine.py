"""What a process asks of its machine: its name, threads, and memory that stays at hand."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

from ..errors import ConfigError
from .words import counted

SMALL = 20_000_000  # parameters: below, two threads gain little on free processors and lose much on busy ones
MOST = 256  # threads that may be asked for anywhere

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt(3)
_torch: int | None = None  # threads that torch took by itself
_chosen: tuple[int, str] | None = None  # what `use_threads` set, and why


def processor() -> str:
    """The processor's name where the system tells it, else the kind of machine."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def use_threads(threads: int | None, parameters: int | None = None, recorded: int | None = None) -> None:
    """Sets how many threads of the processor torch uses in this process: the first of these that is there.

    threads      as the user asked
    recorded     as a run was begun, so that it goes on with the same bits
    OMP_NUM_THREADS, as the user set it
    parameters   of the model: 1 below SMALL, else torch's own number
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
        count, why = recorded, "as the run was begun; --threads changes it"
    elif os.environ.get("OMP_NUM_THREADS"):
        count, why = _torch, "as OMP_NUM_THREADS says"
    elif parameters is not None and parameters < SMALL:
        count, why = 1, "chosen for a small model, --threads changes it"
    else:
        count, why = _torch, "chosen for a large model, --threads changes it"
    torch.set_num_threads(count)
    _chosen = count, why


def check_threads(threads: int | None) -> None:
    """ConfigError for a number of threads below 1, or beyond what the machine can be asked for."""
    most = max(MOST, processors())
    if threads is not None and not 1 <= threads <= most:
        raise ConfigError(f"threads={threads} must be a number from 1 to {most}; leave it out for one that suits the model")


def threads_said() -> str:
    """Threads that torch uses, of how many, and why where `use_threads` chose them: for receipts."""
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
    """Asks the C library to keep freed memory for the next request instead of handing it back to the system.

    Training steps and chunks of a stream ask for the same large blocks over and over. Otherwise every one is mapped,
    cleared by the kernel and unmapped again, which took a third of the time of a step on two cores. For the whole
    process; does nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
