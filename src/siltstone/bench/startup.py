"""Start-up time of a new process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from .timing import Row, interleaved


def startup(rounds: int) -> Iterator[Row]:
    """Seconds that the package adds to importing torch, and seconds to the help page."""

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, capture_output=True)

    ms = interleaved(
        {
            "torch": lambda: run("-c", "import torch"),
            "ours": lambda: run("-c", "import torch, siltstone; siltstone.LM, siltstone.Session"),
            "help": lambda: run("-m", "siltstone", "--help"),
        },
        rounds,
    )
    extra = (ms["ours"] - ms["torch"]) / 1e3
    yield Row("import of the package over torch's own, seconds", 2, "-", ms["ours"], ms["torch"], extra, 0.5, at_most=True)
    yield Row("siltstone --help, seconds", 2, "-", ms["help"], None, ms["help"] / 1e3, 0.3, at_most=True)
