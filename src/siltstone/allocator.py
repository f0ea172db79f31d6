"""Keeping freed memory: training steps and chunks of a stream free and ask for the same large blocks, over and over."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt(3)


def keep_freed_memory() -> None:
    """Asks the C library to keep freed memory for the next request instead of handing it back to the system.

    Otherwise every large tensor is mapped, cleared by the kernel and unmapped again, which took a third of the time of
    a step on two cores. For the whole process; does nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
