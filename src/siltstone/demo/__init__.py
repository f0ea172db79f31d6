"""The shipped model and its demonstration. Importing this does not import torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "demo"


def demo_run() -> Path:
    """The folder of the model that ships with the package: `model, tok = st.load(st.demo_run())`.

    Raises CheckpointError if this installation has none.
    """
    if not (ASSETS / "model.safetensors").is_file():
        raise CheckpointError(f"there is no shipped model in {ASSETS}; install the whole package, or name your own run folder")
    return ASSETS


def run_folder(run: Path) -> Path:
    """The folder for the argument RUN of a command: `demo` is the shipped model, unless there is a folder of that name."""
    return demo_run() if str(run) == "demo" and not run.exists() else run


__all__ = ["demo_run", "run_folder"]
