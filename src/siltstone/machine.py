"""What a process asks of its machine: its name, threads, and memory that stays at hand."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from pathlib import Path

from .errors import ConfigError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt(3)


def processor() -> str:
    """The processor's name where the system tells it, else the kind of machine."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def use_threads(threads: int | None) -> None:
    """Lets torch use so many threads of the processor (None: as many as it likes). Raises ConfigError below 1."""
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"threads={threads} must be at least 1")
    import torch

    torch.set_num_threads(threads)


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
