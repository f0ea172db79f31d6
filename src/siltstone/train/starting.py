"""The weights from which a new run begins: those of another run folder whose model has the same shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..config.model import LMConfig
from ..errors import CheckpointError, ConfigError
from ..models.checkpoint import read
from ..models.fingerprint import fingerprint_of
from ..models.lm import LM
from ..text import Tokenizer


def starting_weights(folder: str | Path, cfg: LMConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """`{"folder", "sha256"}` of the model in `folder`, ready for JSON.

    Raises ConfigError if its parameters have other names or shapes than those of `cfg`, or if it has another tokenizer;
    CheckpointError if the folder cannot be read.
    """
    there, other, weights = read(folder)
    if other.fingerprint != tokenizer.fingerprint:
        raise ConfigError(f"init={folder} has another tokenizer than this run, so that its ids mean other text; give that one")
    with torch.device("meta"):
        wanted = {name: tuple(x.shape) for name, x in LM(cfg).state_dict().items()}
    found = {name: tuple(x.shape) for name, x in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            said = [f"{list(shapes[name])}" if name in shapes else "missing" for shapes in (found, wanted)]
            raise ConfigError(
                f"init={folder} does not have this model's shapes: {name} is {said[0]} there and {said[1]} here; "
                "leave --preset, --config and --set out to use the keys of that model"
            )
    return {"folder": str(folder), "sha256": fingerprint_of(there, weights)}


def load_starting_weights(model: LM, init: dict[str, Any]) -> None:
    """Loads the weights that `starting_weights` described. Raises CheckpointError if the folder has other weights now."""
    cfg, _, weights = read(init["folder"])
    if fingerprint_of(cfg, weights) != init["sha256"]:
        raise CheckpointError(f"init={init['folder']} has other weights than when the run was begun; begin a new run")
    model.load_state_dict(weights)
