"""The file from which a training run resumes: weights, optimiser, states and places of the rows, random generators.

It is a safetensors file with a checksum. Names, shapes and values are compared with the run's model before the trainer is
changed; before a save, the same checks are made.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError, FormatWarning
from ..io import SEAL, write_sealed
from ..io.generators import checked_cuda_state, checked_state
from ..io.parse import is_count, parse_object
from ..io.regular import reason
from ..io.tensor_file import open_tensors
from ..models.lm import LM
from ..models.stream_state import LMState
from .recipe import Recipe

VERSION = 2  # from version 2 on, the file has a checksum
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


class Place(Protocol):
    """A place in the training data."""

    def cursor(self) -> dict[str, Any]:
        """The place, ready for JSON."""
        ...

    def check(self, cursor: Any) -> None:
        """ValueError unless `cursor` is a place."""
        ...

    def seek(self, cursor: dict[str, Any]) -> None:
        """Go to a place."""
        ...


class Resumable(Protocol):
    """The attributes of a trainer that are saved and restored."""

    model: LM
    recipe: Recipe
    optimizer: torch.optim.AdamW
    parameters: dict[str, Any]
    state: LMState | None
    step: int
    tokens: int
    device: torch.device

    @property
    def rows(self) -> Place:
        """The place in the training data."""
        ...


def save(trainer: Resumable, path: Path, about: dict[str, Any]) -> None:
    """See Trainer.save."""
    tensors = {f"model.{name}": x for name, x in trainer.model.state_dict().items()}
    for name, p in trainer.parameters.items():
        tensors |= {f"optimizer.{name}.{key}": x for key, x in trainer.optimizer.state.get(p, {}).items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if trainer.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(trainer.device)
    meta = {"step": trainer.step, "tokens": trainer.tokens, "cursor": trainer.rows.cursor(), "state": None, **about}
    if trainer.state is not None:
        tensors |= {f"state.{name}": x for name, x in trainer.state.tensors().items()}
        meta["state"] = trainer.state.meta()
    text = json.dumps(meta, allow_nan=False)
    try:
        _check(trainer, parse_object(text), {name: x.to("meta") for name, x in tensors.items()})
        _check_numbers(tensors)
    except Exception as error:
        raise CheckpointError(f"{path} is unchanged: the run could not be resumed from its current state: {error}") from error
    write_sealed(path, tensors, {"format": "siltstone-training", "version": str(VERSION), "meta": text})


def restore(trainer: Resumable, path: Path) -> dict[str, Any]:
    """See Trainer.restore."""
    try:
        with open_tensors(path, SEAL) as file:
            version = file.metadata.get("version", "")[:9]
            if not version.isascii() or not version.isdecimal():
                raise ValueError("is not a checkpoint of a training run")
            if int(version) > VERSION:
                raise ValueError(f"has format {version}, newer than this version's {VERSION}; update Siltstone")
            if int(version) > 1 and not file.sealed:
                raise ValueError("was altered: it has no checksum")
            try:
                meta = parse_object(file.metadata["meta"])
                _check(trainer, meta, file.meta())
            except Exception:
                file.verify()
                raise
            tensors, sealed = file.read(), file.sealed
        _check_numbers(tensors)
        state = None if meta["state"] is None else trainer.model.load_state(_under("state.", tensors), meta["state"])
        random = checked_state(tensors["random.cpu"])
        gpu = checked_cuda_state(tensors["random.cuda"]) if "random.cuda" in tensors else None
    except MemoryError:
        raise
    except Exception as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else reason(error)
        raise CheckpointError(f"the training checkpoint {path} cannot be used: it {said[:400].removeprefix('it ')}") from error
    if not sealed:
        warnings.warn(
            f"{path} was written by an early version, without a checksum; it is used unverified, and the next save adds one",
            FormatWarning,
            stacklevel=3,
        )
    trainer.model.load_state_dict(_under("model.", tensors))
    for name, p in trainer.parameters.items():
        if moments := _under(f"optimizer.{name}.", tensors):
            trainer.optimizer.state[p] = {key: x.to(p.device if key != "step" else x.device) for key, x in moments.items()}
    trainer.rows.seek(meta["cursor"])
    trainer.step, trainer.tokens, trainer.state = (
        meta["step"],
        meta["tokens"],
        None if state is None else state.to(trainer.device),
    )
    torch.set_rng_state(random)
    if gpu is not None and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(gpu, trainer.device)
    return meta


def reached(path: Path) -> tuple[int, float]:
    """Step and seconds of training of the checkpoint, from its header. Raises CheckpointError."""
    try:
        with open_tensors(path, SEAL) as file:
            meta = parse_object(file.metadata["meta"])
        return int(meta["step"]), float(meta.get("seconds", 0.0))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the training checkpoint {path} cannot be used: {reason(error)[:400]}") from error


def _check(trainer: Resumable, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """ValueError, KeyError or InputError unless the tensors (without data) and their description fit this run."""
    weights = trainer.model.state_dict()
    wanted = {f"model.{name}": x for name, x in weights.items()}
    for name, p in trainer.parameters.items():
        keys = _under(f"optimizer.{name}.", tensors).keys()
        if keys and keys != MOMENTS:
            raise ValueError(f"has moments of {name} that are not AdamW's: {', '.join(sorted(keys))}"[:300])
        wanted |= {f"optimizer.{name}.{key}": torch.zeros((), device="meta") if key == "step" else p for key in keys}
    others = {name for name in tensors if name not in wanted and not name.startswith("state.")}
    if lacking := sorted(wanted.keys() - tensors.keys()) or sorted({"random.cpu"} - others):
        raise ValueError(f"lacks {lacking[0]!r}")
    if more := sorted(others - {"random.cpu", "random.cuda"}):
        raise ValueError(f"has the unknown {more[0][:80]!r}")
    for name, x in wanted.items():
        if tensors[name].shape != x.shape or tensors[name].is_floating_point() != x.is_floating_point():
            raise ValueError(f"has {name} of shape {list(tensors[name].shape)}, and the run's is {list(x.shape)}")
    if not is_count(meta["step"]) or not is_count(meta["tokens"]):
        raise ValueError("has no counts of steps and tokens")
    spent = meta.get("seconds", 0.0)
    if isinstance(spent, bool) or not isinstance(spent, int | float) or not 0 <= spent < math.inf:
        raise ValueError("has no time spent")
    trainer.rows.check(meta["cursor"])
    if meta["state"] is None:
        if _under("state.", tensors):
            raise ValueError("has a state without a description")
    elif len(trainer.model.load_state(_under("state.", tensors), meta["state"])) != trainer.recipe.batch:
        raise ValueError(f"has a state with another number of rows than the run's {trainer.recipe.batch}")


def _check_numbers(tensors: dict[str, Tensor]) -> None:
    """ValueError if weights or moments are NaN or infinite."""
    for name, x in tensors.items():
        if name.startswith(("model.", "optimizer.")) and x.is_floating_point() and not torch.isfinite(x).all():
            raise ValueError(f"has {name} with values that are NaN or infinite")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
