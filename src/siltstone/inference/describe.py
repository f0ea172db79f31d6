"""Describes a session file without its model."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from torch import Tensor

from ..bank import kinds
from ..config.model import LMConfig
from ..errors import SessionCorrupt
from ..io.parse import is_count
from ..models.stream_state import read_cuts
from ..schedule.segments import Cuts
from . import silt
from .receipt import UNCUT, growth, kv_cache_bytes, sealed, spans
from .store import PREFIX as _PREFIX
from .store import described, theirs


def described_model(cfg: LMConfig) -> str:
    """A one-line summary of a model."""
    layer, kinds = cfg.layer, "".join(kind[0] for kind in cfg.kinds)
    return (
        f"{cfg.depth} blocks ({kinds}), d_model {layer.d_model}, {layer.memory} memory, {layer.cache} cache, "
        f"window {layer.window}, segment {layer.segment} ({layer.segments}, {layer.start}){cfg.differences}"
    )


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description of a session file, ready for JSON; no model is needed. Raises the errors of `Session.load`."""
    blank: dict[str, Tensor] = {}
    built: list[LMConfig] = []

    def check(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        blank.update(tensors)
        described(path, header)
        built.append(theirs(path, header))

    wanted = (".cuts", *(f".bank.{leaf}" for leaf in kinds.telling()))
    header, tensors = silt.read(path, check, lambda name: name.endswith(wanted))
    cfg, size = built[0], os.path.getsize(path)
    stream, version = header["notes"].get("stream"), header.get("written_by")
    position, memories = header["position"], cfg.memory_layers
    first, cuts = _segmented(path, header, tensors, cfg)
    element = {"float64": 8, "float32": 4}.get(header["dtype"], 2)
    growing = [layer for layer in memories if kinds.bank(layer).grows]
    if any(sealed(layer, position, first, cuts) > size for layer in growing):
        raise SessionCorrupt(f"{path} claims position {position}, and its {size} bytes are too few for the checkpoints of that")
    banks: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for block, (kind, layer) in enumerate(zip(cfg.kinds, cfg.layer_configs, strict=True)):
        if kind == "memory":
            leaves = kinds.bank(layer).tells if layer.members.cache.cls.keeps else ()
            names = {leaf: f"{_PREFIX}layers.{block}.bank.{leaf}" for leaf in leaves}
            told = {leaf: tensors[name].flatten().tolist() if name in tensors else [] for leaf, name in names.items()}
            if not all(is_count(n) for numbers in told.values() for n in numbers):
                raise SessionCorrupt(f"{path} describes no session: the checkpoints of block {block} have invalid segments")
            banks.setdefault(tuple(spans(layer, position, first, cuts, told)), []).append(block)
    parts = {str(k)[:40]: v for k, v in list(header["parts"].items())[:16] if is_count(v)}
    parts["logits and sampler"] = sum(x.nbytes for name, x in blank.items() if not name.startswith(_PREFIX))
    return {
        "format": header["format"],
        "written_by": version if isinstance(version, dict) else {},
        "file_bytes": size,
        "position": position,
        "parts": parts,
        "memory_layers": len(memories),
        "checkpoints": list(next(iter(banks), ())),
        "banks": [{"blocks": blocks, "checkpoints": list(found)} for found, blocks in banks.items()],
        "growth": growth(cfg),
        "kv_cache_bytes": kv_cache_bytes(cfg, position, element),
        "dtype": header["dtype"],
        "model": described_model(cfg),
        "config": cfg.to_dict(),
        "weights": header["model"]["weights"],
        "tokenizer": header["tokenizer"],
        "stream": stream if isinstance(stream, dict) and is_count(stream.get("offset")) else None,
        "notes": header["notes"],
    }


def _segmented(path: Any, header: dict[str, Any], tensors: dict[str, Tensor], cfg: LMConfig) -> tuple[int, Cuts]:
    """The session's phase and cuts. Raises SessionCorrupt if they or the position are invalid."""
    position, phase = header["position"], header["state"].get("phase")
    first = phase[0] if isinstance(phase, list) and phase and is_count(phase[0]) else 0
    try:
        if not is_count(position) or not 0 <= first < cfg.phases:
            raise ValueError(f"position {position} and phase {first}")
        if not cfg.content:
            return first, UNCUT
        (cuts,) = read_cuts(tensors.get(_PREFIX + "cuts"), header["state"].get("cuts"), np.array([position]))
    except ValueError as error:
        raise SessionCorrupt(f"{path} describes no session: {error}"[:300]) from None
    return first, cuts
