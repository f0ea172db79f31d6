"""The shipped model and its demonstration. Importing this does not import torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "demo"
LOOKUP = ASSETS.parent / "lookup"


def demo_run() -> Path:
    """The folder of the model that ships with the package: `model, tok = st.load(st.demo_run())`.

    Raises CheckpointError if this installation has none.
    """
    return _shipped(ASSETS)


def lookup_run() -> Path:
    """The folder of the model that ships with the package and looks things up in what it has read.

    Raises CheckpointError if this installation has none.
    """
    return _shipped(LOOKUP)


def _shipped(folder: Path) -> Path:
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"there is no shipped model in {folder}; install the whole package, or name your own run folder")
    return folder


def run_folder(run: Path) -> Path:
    """The folder for the argument RUN of a command: `demo` and `lookup` are models that ship, unless there is such a folder."""
    shipped = {"demo": demo_run, "lookup": lookup_run}.get(str(run))
    return shipped() if shipped is not None and not run.exists() else run


__all__ = ["demo_run", "lookup_run", "run_folder"]
