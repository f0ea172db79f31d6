"""The command line of the scripts that write a page of docs/: without arguments they write it, with --check they compare it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def main(file: Path, page: Callable[[], str], about: str | None, source: str) -> None:
    """Writes `page()` to `file`; with --check, exits with a message if they differ. source: what the page is made from."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        file.write_text(page(), "utf-8")
    elif not file.is_file() or file.read_text("utf-8") != page():
        sys.exit(f"{file} does not match {source}; run `make docs`")
