"""A pretrained decoder becomes a model of ours, with its tokenizer; or at once a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config.model import LMConfig
from ..errors import CheckpointError, ConfigError, TokenizerError, UnsupportedModel
from ..io import claim
from ..io.folder import make_folder
from ..models.checkpoint import build, check_finite, check_vocabulary, save, some
from ..text import Tokenizer
from . import tokens
from .configs import to_keys
from .library import transformers
from .source import Source, find
from .weights import EMBED, HEAD, joined, names, parted

if TYPE_CHECKING:
    from ..models.lm import LM

RECORD, VERSION = "pretrained.json", 1
# The settled law of blocks for decoders without training; docs/decisions/0043 and 0044 have the figures.
BLOCKS: dict[str, Any] = dict(
    pattern="m", cache="blocks", window=512, sinks=4, segment=32, top_k=16, router="subblock:2", checkpoint_dtype="int8",
    cache_options={"router_queries": 8, "route_every": 32, "coarse": 16, "coarse_from": 16384, "candidates": 128, "votes": 10},
)  # fmt: skip
COARSE = BLOCKS["cache_options"]["coarse"]
BUFFERS = ("rotary_emb.inv_freq", "self_attn.bias", "masked_bias")  # constants that older files have; they are computed here


def blocks(**changes: Any) -> dict[str, Any]:
    """BLOCKS with changes. One stage where coarse routing keys do not fit; no votes with evict="use"."""
    keys = BLOCKS | changes
    router, segment = keys["router"], keys["segment"]
    part = int(router.partition(":")[2] or 1) if isinstance(router, str) and router.partition(":")[2].isdecimal() else segment
    fits = isinstance(segment, int) and isinstance(part, int) and part > 0 and not segment % COARSE and not COARSE % part
    counted = keys.get("evict") == "use"
    if "cache_options" not in changes and (not fits or counted):
        keys["cache_options"] = BLOCKS["cache_options"] | {"coarse": 0} | ({"votes": 0} if counted else {})
    return keys


def from_hf(
    source: Any,
    tokenizer: Any = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> tuple[LM, Tokenizer | None]:
    """A pretrained decoder as a model (in evaluation mode) and its tokenizer.

    source      a folder of transformers with safetensors files, a GGUF file or a folder with one, or a model of transformers
    tokenizer   one of Siltstone or of transformers, or its file or folder; default: that of the source, None if it has none
    device, dtype   of the weights
    changes     keys of the configuration that differ from the decoder's, for example `pattern="w", window=512, sinks=4`

    The logits are those of transformers, to rounding. Raises UnsupportedModel, with its name, for a part that Siltstone lacks;
    CheckpointError for files that are missing or damaged; TokenizerError for a tokenizer that cannot be used or has more ids
    than the model; ConfigError for changes that need weights that the decoder does not have.
    """
    library = transformers()
    found = find(source, library)
    cfg, _, weights, _ = _weights(found, changes)
    made = _tokenizer(found, tokenizer, cfg, library)
    model = build(cfg).to(dtype)
    model.load_state_dict(weights)
    return model.to(device=device).eval(), made


def import_run(source: Any, folder: str | Path, tokenizer: Any = None, **changes: Any) -> Path:
    """`from_hf`, written as a run folder; weights keep their stored dtype. Raises also StorageError, and InUse if another
    process writes to the folder.

    `pretrained.json` beside the model has what `export` needs to write the decoder back bit for bit.
    """
    library = transformers()
    found = find(source, library)
    cfg, plain, weights, dtypes = _weights(found, changes)
    made = _tokenizer(found, tokenizer, cfg, library)
    if made is None:
        raise TokenizerError(f"{found.name} has no tokenizer; give one: tokenizer= in Python, --tokenizer on the command line")
    files = {name: text for name, text in found.files.items() if tokenizer is None or name not in tokens.FILES}
    record = {"version": VERSION, "keys": plain, "files": files, "tensors": dtypes}
    with torch.device("meta"):
        model = build(cfg)
    model.load_state_dict(weights, assign=True)
    with claim(make_folder(folder)):
        return save(model, made, folder, beside={RECORD: (json.dumps(record, indent=1) + "\n").encode("utf-8")})


def _weights(found: Source, changes: dict[str, Any]) -> tuple[LMConfig, str, dict[str, Tensor], dict[str, str]]:
    """The configuration, the fingerprint of that without changes, our weights, and the dtype of each tensor of the source."""
    keys = to_keys(found.config, found.name)
    theirs = {name: x for name, x in found.tensors().items() if not name.endswith(BUFFERS)}
    if keys["tie"] and HEAD in theirs and EMBED in theirs and not torch.equal(theirs[HEAD], theirs[EMBED]):
        keys["tie"] = False  # both are stored, and differ: transformers uses both
    plain = LMConfig.from_dict(keys)
    wanted = {part for parts in names(plain).values() for part in parts}
    lacking, extra = sorted(wanted - theirs.keys()), sorted(theirs.keys() - wanted - ({HEAD} if plain.tie else set()))
    if lacking:
        raise CheckpointError(f"{found.name} lacks the weights {some(lacking)}; take a whole causal language model")
    if extra:
        raise UnsupportedModel(f"{found.name} has weights that Siltstone lacks: {some(extra)}")
    odd = [name for name, x in theirs.items() if not x.is_floating_point()]
    if odd:
        raise UnsupportedModel(f"{found.name} has quantised weights, which Siltstone lacks: {some(odd)}")
    with torch.device("meta"):
        needed = parted(plain, build(plain).state_dict())
    for ours, parts in names(plain).items():
        for name in parts:
            if (shape := theirs[name].shape) != needed[name].shape:
                raise CheckpointError(
                    f"{found.name} does not fit its configuration: {name} ({ours}) has shape {list(shape)}, "
                    f"and {list(needed[name].shape)} is needed"
                )
    cfg = _changed(plain, keys, changes)
    weights = joined(plain, theirs)
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in build(cfg).state_dict().items()}
    if missing := sorted(shapes.keys() - weights.keys()):
        raise ConfigError(f"{_changes(changes)} need weights that {found.name} does not have: {some(missing)}")
    if left := sorted(weights.keys() - shapes.keys()):
        raise ConfigError(f"{_changes(changes)} leave out weights that {found.name} has: {some(left)}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ConfigError(
                f"{_changes(changes)} do not fit the weights of {found.name}: {name} has shape {list(weights[name].shape)}, "
                f"and {list(shape)} is needed"
            )
    check_finite(weights, found.name, "take another copy")
    return cfg, plain.fingerprint, weights, {name: str(x.dtype).removeprefix("torch.") for name, x in theirs.items()}


def _changed(plain: LMConfig, keys: dict[str, Any], changes: dict[str, Any]) -> LMConfig:
    """The configuration with changes; those of single blocks are added to the decoder's own."""
    blocks = changes.get("layers")
    if isinstance(blocks, dict) and all(isinstance(x, dict) for x in blocks.values()) and "layers" in keys:
        own = {int(number): one for number, one in keys["layers"].items()}
        for number, one in blocks.items():
            at = int(number) % plain.depth if str(number).lstrip("-").isdecimal() else number
            own[at] = own.get(at, {}) | one
        changes = changes | {"layers": {str(number): one for number, one in own.items()}}
    if not changes:
        return plain
    cfg = LMConfig.from_dict(keys | changes)
    near = [letter == "w" for letter in _letters(plain)]
    for i, (kind, layer) in enumerate(zip(cfg.kinds, cfg.layer_configs, strict=True)):
        if i < plain.depth and near[i] and kind == "memory" and layer.members.cache.cls.exact:
            fitting = "".join("w" if one else "m" for one in near)
            mend = f"; keep its window: pattern={fitting!r}" if "m" in fitting else ", as in every layer of this decoder"
            raise ConfigError(
                f"cache={layer.cache!r} in layer {i}, which attends to the last {plain.layer_configs[i].window} tokens only: "
                f"blocks would show it others{mend}"
            )
    return cfg


def _letters(cfg: LMConfig) -> list[str]:
    return [cfg.letters[i % len(cfg.letters)] for i in range(cfg.depth)]


def _tokenizer(found: Source, given: Any, cfg: LMConfig, library: Any) -> Tokenizer | None:
    ends = found.ends
    made = found.tokenizer(ends) if given is None else tokens.given(given, ends, library)
    if made is not None:
        check_vocabulary(cfg, made, f"the tokenizer of {found.name}")
    return made


def _changes(changes: dict[str, Any]) -> str:
    return "the changes " + ", ".join(f"{key}={value!r:.40}" for key, value in changes.items())
