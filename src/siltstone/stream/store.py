"""What a session file says about its session, and whether it fits the model at hand."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..config import LMConfig
from ..errors import ConfigError, SessionCorrupt, SessionMismatch
from ..model.segments import Cuts
from ..model.stream_state import read_cuts
from ..registry import member
from . import silt
from .receipt import UNCUT, growth, kv_cache_bytes, sealed, spans
from .session import Session

if TYPE_CHECKING:
    from ..model.lm import LM
    from ..text import Tokenizer

_PREFIX = "state."
_FINGERPRINTS: weakref.WeakKeyDictionary[Any, tuple[Any, str]] = weakref.WeakKeyDictionary()


def save(session: Session, path: str | os.PathLike[str]) -> None:
    """See `Session.save`."""
    state, model = session._state, session.model
    tensors = {_PREFIX + name: x for name, x in state.tensors().items()}
    tensors["sampler"] = session._sampler.get_state()
    if session._logits is not None:
        tensors["logits"] = session._logits
    header = {
        "position": session.position,
        "model": {"config": model.cfg.to_dict(), "weights": weights_fingerprint(model)},
        "tokenizer": session.tokenizer.fingerprint,
        "dtype": _dtype(model),
        "state": state.meta(),
        "parts": state.parts(),
        "notes": session.notes,
        "written_by": {"siltstone": __version__, "torch": str(torch.__version__)},
    }
    silt.write(path, header, tensors)


def load(path: str | os.PathLike[str], model: LM, tokenizer: Tokenizer) -> Session:
    """See `Session.load`. Nothing of the session exists before all of the file is found to fit."""
    header, tensors = silt.read(path)
    described(path, header)
    _check_fits(path, header, model, tokenizer)
    try:
        state = model.load_state({k[len(_PREFIX) :]: x for k, x in tensors.items() if k.startswith(_PREFIX)}, header["state"])
        session = Session(model, tokenizer)
        session._sampler.set_state(tensors["sampler"])
        logits = tensors.get("logits")
        position = [int(p) for p in state.position]
        wanted = None if position == [0] else ((model.cfg.vocab_size,), model.embed.weight.dtype)
        if position != [header["position"]] or (None if logits is None else (tuple(logits.shape), logits.dtype)) != wanted:
            raise ValueError("position, state and logits do not belong together")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        raise SessionCorrupt(f"{path} holds a state that does not fit its own description: {error}; take another copy") from None
    session._state = state
    session._logits = None if logits is None else logits.to(model.embed.weight.device)
    session.notes = header["notes"]
    session.counters.restored = session.position
    return session


def described(path: str | os.PathLike[str], header: dict[str, Any]) -> None:
    """Raise SessionCorrupt unless a header has all its parts, each of its kind."""
    kinds = {"position": int, "model": dict, "tokenizer": str, "dtype": str, "state": dict, "parts": dict, "notes": dict}
    for key, kind in kinds.items():
        if not isinstance(header.get(key), kind):
            raise SessionCorrupt(f"{path} describes no session: its {key!r} is {header.get(key)!r}, expected {kind.__name__}")
    if not isinstance(header["model"].get("config"), dict) or not isinstance(header["model"].get("weights"), str):
        raise SessionCorrupt(f"{path} describes no session: its 'model' lacks a configuration or a fingerprint of weights")


def weights_fingerprint(model: LM) -> str:
    """`model_fingerprint`, taken again only when a weight was changed or replaced since."""
    from ..checkpoint import model_fingerprint

    weights = model.state_dict(keep_vars=True).values()
    seen = tuple((x.data_ptr(), 0 if x.is_inference() else x._version, x.dtype) for x in weights)
    known = _FINGERPRINTS.get(model)
    if known is None or known[0] != seen:
        known = _FINGERPRINTS[model] = (seen, model_fingerprint(model))
    return known[1]


def _dtype(model: LM) -> str:
    return str(model.embed.weight.dtype).removeprefix("torch.")


def described_model(cfg: LMConfig) -> str:
    """A model in a line of words."""
    layer, kinds = cfg.layer, "".join(kind[0] for kind in cfg.kinds)
    return (
        f"{cfg.depth} blocks ({kinds}), d_model {layer.d_model}, {layer.memory} memory, {layer.cache} cache, "
        f"window {layer.window}, segment {layer.segment} ({layer.segments}, {layer.start}){cfg.differences}"
    )


def _check_fits(path: str | os.PathLike[str], header: dict[str, Any], model: LM, tokenizer: Tokenizer) -> None:
    theirs, ours = header["model"]["config"], model.cfg.to_dict()
    try:
        theirs = LMConfig.from_dict(theirs).to_dict()
    except (ConfigError, TypeError) as error:
        raise SessionMismatch(f"{path} was written by a model that this Siltstone cannot build: {error}") from None
    differ = [f"{key} is {theirs[key]!r} there and {ours[key]!r} here" for key in ours if theirs[key] != ours[key]]
    if differ:
        raise SessionMismatch(
            f"{path} was written by a model of another configuration: {'; '.join(differ[:4])}; "
            "use that model, or another session file"
        )
    if header["dtype"] != _dtype(model):
        raise SessionMismatch(
            f"{path} was written by the model in {header['dtype'][:20]}, and here it is in {_dtype(model)}; "
            f"load the model with dtype=torch.{header['dtype'][:20]}"
        )
    if header["model"]["weights"] != weights_fingerprint(model):
        raise SessionMismatch(
            f"{path} was written by a model with other weights (same configuration); use that model's run folder, "
            "or another session file"
        )
    if header["tokenizer"] != tokenizer.fingerprint:
        raise SessionMismatch(f"{path} was written with another tokenizer; use the one in that model's run folder")


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a session file says of its session, ready for JSON; no model is needed. Raises as `Session.load` does."""
    header, tensors = silt.read(path)
    described(path, header)
    try:
        cfg = LMConfig.from_dict(header["model"]["config"])
    except (ConfigError, TypeError) as error:
        raise SessionMismatch(f"{path} was written by a model that this Siltstone cannot build: {error}") from None
    size = os.path.getsize(path)
    stream, version = header["notes"].get("stream"), header.get("written_by")
    position, memories = header["position"], cfg.memory_layers
    first, cuts = _segmented(path, header, tensors, cfg)
    element = {"float64": 8, "float32": 4}.get(header["dtype"], 2)
    growing = [layer for layer in memories if layer.segments != "logarithmic" and not layer.bounded]
    if any(sealed(layer, position, first, cuts) > size for layer in growing):
        raise SessionCorrupt(f"{path} claims position {position}, and its {size} bytes cannot hold the checkpoints of that")
    banks: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for block, (kind, layer) in enumerate(zip(cfg.kinds, cfg.layer_configs, strict=True)):
        if kind == "memory":
            kept = None
            if layer.bounded and member("cache", layer.cache).keeps:
                names = (f"{_PREFIX}layers.{block}.bank.{leaf}" for leaf in ("last", "span"))
                last, span = (tensors[name].flatten().tolist() if name in tensors else [] for name in names)
                kept = list(zip(last, span, strict=False))
                if not all(isinstance(n, int) and 0 <= n < 1 << 62 for pair in kept for n in pair):
                    raise SessionCorrupt(f"{path} describes no session: the checkpoints of block {block} hold no segments")
            banks.setdefault(tuple(spans(layer, position, first, cuts, kept)), []).append(block)
    parts = {str(k): v for k, v in header["parts"].items() if isinstance(v, int)}
    parts["logits and sampler"] = sum(x.nbytes for name, x in tensors.items() if not name.startswith(_PREFIX))
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
        "stream": stream if isinstance(stream, dict) and isinstance(stream.get("offset"), int) else None,
        "notes": header["notes"],
    }


def _segmented(path: Any, header: dict[str, Any], tensors: dict[str, Tensor], cfg: LMConfig) -> tuple[int, Cuts]:
    """The session's phase and cuts. Raises SessionCorrupt where they, or its position, make no sense."""
    position, phase = header["position"], header["state"].get("phase")
    first = phase[0] if isinstance(phase, list) and phase and isinstance(phase[0], int) else 0
    try:
        if not 0 <= position < 1 << 62 or not 0 <= first < cfg.phases:
            raise ValueError(f"position {position} and phase {first}")
        if not cfg.content:
            return first, UNCUT
        (cuts,) = read_cuts(tensors.get(_PREFIX + "cuts"), header["state"].get("cuts"), np.array([position]))
    except ValueError as error:
        raise SessionCorrupt(f"{path} describes no session: {error}"[:300]) from None
    return first, cuts


__all__ = ["describe", "described", "load", "save", "weights_fingerprint"]
