"""Entry point of the process: signals and streams are set up before any slow import."""

from __future__ import annotations

import signal

from ..core.interrupt import SIGNALS, shielded
from .guard import guard


def main() -> None:
    """Entry point of the console script."""
    try:
        with guard():
            with shielded():  # signals wait: an import could swallow the exception
                from .app import main
            main()
    finally:
        for number in SIGNALS:  # signals after this point do not change the exit code
            signal.signal(number, signal.SIG_IGN)
