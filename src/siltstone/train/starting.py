"""The weights from which a new run begins: those of another run folder whose model has the same shapes, or fewer layers.

A model that grows gets new layers in front of those it has. They begin without effect: what they add is 0, so that the model
computes what it computed before. A layer with cache="blocks" begins as a lookup among its inputs (`BlockAttention.begin`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..config.model import LMConfig
from ..errors import CheckpointError, ConfigError
from ..layers.block import Block
from ..layers.blocks import BlockAttention
from ..models.checkpoint import read
from ..models.fingerprint import fingerprint_of
from ..models.lm import LM
from ..text import Tokenizer


def starting_weights(folder: str | Path, cfg: LMConfig, tokenizer: Tokenizer, grow: bool = False) -> dict[str, Any]:
    """`{"folder", "sha256"}` of the model in `folder`, ready for JSON; with `grow` also `"grown"`, the number of new layers.

    grow   the model in `folder` has fewer layers than `cfg`, which are its last ones
    Raises ConfigError if its parameters have other names or shapes than those of `cfg`, or if it has another tokenizer;
    CheckpointError if the folder cannot be read.
    """
    there, other, weights = read(folder)
    if other.fingerprint != tokenizer.fingerprint:
        raise ConfigError(f"init={folder} has another tokenizer than this run, so that its ids mean other text; give that one")
    with torch.device("meta"):
        wanted = {name: tuple(x.shape) for name, x in LM(cfg).state_dict().items()}
    new = cfg.depth - there.depth if grow else 0
    if grow and new < 1:
        raise ConfigError(f"init={folder} has {there.depth} layers and this model {cfg.depth}; give it more, or leave --grow out")
    wanted = {name: shape for name, shape in wanted.items() if not name.startswith(_blocks(new))} if new else wanted
    found = {name: tuple(x.shape) for name, x in _moved(weights, new).items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            said = [f"{list(shapes[name])}" if name in shapes else "missing" for shapes in (found, wanted)]
            raise ConfigError(
                f"init={folder} does not have this model's shapes: {name} is {said[0]} there and {said[1]} here; "
                "leave --preset, --config and --set out to use the keys of that model, or give --grow if this one only has more "
                "layers in front"
            )
    return {"folder": str(folder), "sha256": fingerprint_of(there, weights)} | ({"grown": new} if new else {})


def load_starting_weights(model: LM, init: dict[str, Any]) -> None:
    """Loads the weights that `starting_weights` described. Raises CheckpointError if the folder has other weights now."""
    cfg, _, weights = read(init["folder"])
    if fingerprint_of(cfg, weights) != init["sha256"]:
        raise CheckpointError(f"init={init['folder']} has other weights than when the run was begun; begin a new run")
    new = init.get("grown", 0)
    begun = {name: x for name, x in model.state_dict().items() if name.startswith(_blocks(new))} if new else {}
    model.load_state_dict(_moved(weights, new) | begun)
    for block in cast(list[Block], list(model.blocks)[:new]):
        _silence(block)
        if isinstance(block.mix, BlockAttention):
            weight = model.embed.weight.detach()
            block.mix.begin(weight if block.after else block.norm_mix(weight))


def _blocks(new: int) -> tuple[str, ...]:
    """The beginnings of the names of the first blocks' parameters."""
    return tuple(f"blocks.{i}." for i in range(new))


def _moved(weights: dict[str, Tensor], by: int) -> dict[str, Tensor]:
    """The weights with their blocks `by` places further back."""
    out = {}
    for name, x in weights.items():
        first, _, rest = name.partition(".")
        number, _, rest = rest.partition(".")
        out[f"blocks.{int(number) + by}.{rest}" if first == "blocks" else name] = x
    return out


@torch.no_grad()
def _silence(block: Block) -> None:
    """Zeros in the last products of both halves of a block: it then changes nothing, and its gradients are not zero."""
    for part in (cast(torch.nn.Linear, block.mix.out), block.mlp.down):
        part.weight.zero_()
        if part.bias is not None:
            part.bias.zero_()
