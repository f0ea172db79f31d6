"""The checkpoint that ships with the package, and the demonstration of it. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "demo"


def demo_run() -> Path:
    """The folder of the checkpoint that ships with the package: `model, tok = st.load(st.demo_run())`.

    Raises CheckpointError when this installation has none.
    """
    if not (ASSETS / "model.safetensors").is_file():
        raise CheckpointError(f"no checkpoint ships in {ASSETS}; install the whole package, or name a run folder of your own")
    return ASSETS


def run_folder(run: Path) -> Path:
    """The folder that a command names: `demo` is the checkpoint that ships, unless there is a folder of that name."""
    return demo_run() if str(run) == "demo" and not run.exists() else run


__all__ = ["demo_run", "run_folder"]
