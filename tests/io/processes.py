"""Small programs that tests start and kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = str(Path(__file__).parents[2] / "src")
# Packages without what they import themselves (torch), which would take a second, and which files and locks have no use for.
BARE = f"""
import os, sys, types
for name in ("siltstone", "siltstone.io"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [os.path.join({SOURCE!r}, *name.split("."))]
"""


def command(program: str, *words: object) -> list[str]:
    """How to run a Python program that imports from `siltstone.io.FILE` alone."""
    return [sys.executable, "-W", "error", "-c", BARE + program, *map(str, words)]


@contextmanager
def running(program: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a process of its own that has printed one line; it is killed at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(program, *words), stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
