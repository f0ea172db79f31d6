"""Where the process begins: signals and streams are looked after before anything that takes time is imported."""

from __future__ import annotations

import signal

from ..core.interrupt import SIGNALS, shielded
from .guard import guard


def main() -> None:
    """Entry point of the console script."""
    try:
        with guard():
            with shielded():  # a stop that an import swallows would be lost
                from .app import main
            main()
    finally:
        for number in SIGNALS:  # the exit code stands: nothing disturbs the end of the process
            signal.signal(number, signal.SIG_IGN)
