"""Places besides `metrics.jsonl` that get the figures of a run: TensorBoard and Trackio. Both are optional packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError

PROJECT = "siltstone"


class Sink(Protocol):
    """A place for figures."""

    def write(self, record: dict[str, Any]) -> None:
        """Takes the figures of one step or validation; `record["step"]` is its step."""
        ...

    def close(self) -> None:
        """Writes what is held back."""
        ...


def figures(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record without its step, each under `train/` or `valid/`; no bits per byte of a step that read no text."""
    kind = "train" if "loss" in record else "valid"
    without = ("step", "bits_per_byte") if record.get("bytes") == 0 else ("step",)
    numbers = {key: x for key, x in record.items() if key not in without and type(x) in (int, float)}
    return {f"{kind}/{key.removeprefix('valid_')}": float(x) for key, x in numbers.items()}


class TensorBoard:
    """Event files in the folder `tensorboard` of the run. A resumed run removes events after `step` from what is shown."""

    def __init__(self, folder: Path, step: int) -> None:
        writer = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, record: dict[str, Any]) -> None:
        """See Sink."""
        for key, value in figures(record).items():
            self._writer.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """See Sink."""
        self._writer.close()


class Trackio:
    """A run named after the folder, in Trackio's local project "siltstone"; a resumed run continues it."""

    def __init__(self, folder: Path, step: int) -> None:
        self._trackio = _imported("trackio", "trackio")
        name = folder.resolve().name
        self._trackio.init(project=PROJECT, name=name, resume="allow" if step else "never", embed=False)

    def write(self, record: dict[str, Any]) -> None:
        """See Sink."""
        self._trackio.log(figures(record), step=record["step"])

    def close(self) -> None:
        """See Sink."""
        self._trackio.finish()


SINKS: dict[str, Callable[[Path, int], Sink]] = {"tensorboard": TensorBoard, "trackio": Trackio}
MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio"}


def check_sinks(names: list[str]) -> None:
    """ConfigError for an unknown sink, and for one whose package is missing: before any work is done."""
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"log={name!r} is not known; choose one of {list(SINKS)}")
        _imported(MODULES[name], name)


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--log {package} needs the package {package}, which cannot be imported ({error}); "
            "install the extra: pip install 'siltstone[log]', or leave --log out: metrics.jsonl has the same figures"
        ) from error
