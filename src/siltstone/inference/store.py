"""Saves and loads sessions; checks that a session file fits the model."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config.model import LMConfig
from ..core.version import VERSION
from ..errors import ConfigError, FormatWarning, InputError, RuntimeChanged, SessionCorrupt, SessionMismatch, StorageError
from ..io import Stamp, stamp
from ..io.generators import checked_state
from ..io.parse import parse_object
from ..io.place import named
from ..io.regular import given_path
from ..models.fingerprint import Seen, with_tokenizer
from . import silt
from .session import Session
from .spilling import spilled

if TYPE_CHECKING:
    from ..models.streaming import StreamingModel as Model
    from ..models.streaming import StreamingState as State
    from ..text import Tokenizer

PREFIX = "state."
FARTHEST = 1 << 62  # tokens; positions are counted in 64 bits


def save(session: Session, path: str | os.PathLike[str], overwrite: bool) -> None:
    """See `Session.save`. The checks of `load` are made before the file is written."""
    path = named(path)
    header, tensors = packed(session)
    place = os.path.realpath(path)
    known = None if overwrite or session._file is None or session._file[0] != place else session._file[1]
    written = silt.write(path, header, tensors, known)
    session._file = None if written is None else (place, written)


def packed(session: Session) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a session's file, which have passed the checks of `load`."""
    state, model = session._state, session.model
    session._weights.check(model, "this session")
    tensors = {PREFIX + name: x for name, x in state.tensors().items()}
    tensors["sampler"] = session._sampler.get_state()
    if session._logits is not None:
        tensors["logits"] = session._logits
    if not isinstance(session.notes, dict):
        raise InputError(f"the session's notes are a {type(session.notes).__name__}, and must be a dictionary ready for JSON")
    weights = session._weights.fingerprint
    header = {
        "position": session.position,
        "model": {
            "config": model.cfg.to_dict(),
            "weights": weights,
            "fingerprint": with_tokenizer(weights, session.tokenizer),
        },
        "tokenizer": session.tokenizer.fingerprint,
        "dtype": _dtype(model),
        "state": state.meta(),
        "parts": getattr(state, "parts", dict)(),
        "notes": session.notes,
        "runtime": session.runtime,
        "written_by": {"siltstone": VERSION, "torch": str(torch.__version__)},
    }
    read_back = parse_object(silt.header_text(header))
    _check(
        "the session", read_back, {name: x.to("meta") for name, x in tensors.items()}, model, session.tokenizer, session._weights
    )
    _restored("the session", read_back, tensors, model)
    return header, tensors


Whole = Callable[[dict[str, Any], dict[str, Tensor]], dict[str, Tensor]]


def load(
    path: str | os.PathLike[str], model: Model, tokenizer: Tokenizer, runtime: str, whole: Whole | None = None, spill: Any = None
) -> Session:
    """See `Session.load`. The session is filled only after all checks of the file have passed.

    whole   makes all tensors of those of the file, if others are kept elsewhere
    """
    session, path = Session(model, tokenizer, runtime, spill), given_path(path)

    def check(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        _check(path, header, tensors, session.model, tokenizer, session._weights)

    before: Stamp | None = None
    with suppress(StorageError, ValueError):  # `silt.read` reports these
        before = stamp(path)
    header, tensors = silt.read(path) if whole is not None else silt.read(path, check)
    if whole is not None:
        with _own(path):
            tensors = whole(header, tensors)
        check(header, tensors)
    session._file = None if before is None else (os.path.realpath(path), before)
    state, session._logits, sampler = _restored(path, header, tensors, session.model)
    session._state = spilled(state, session._spill)
    session._sampler.set_state(sampler)
    session.notes = header["notes"]
    session.counters.restored = session.position
    if "fingerprint" not in header["model"]:
        warnings.warn(
            f"{path} was written by an early version, without the fingerprint of model and tokenizer together; "
            "save the session to write it anew",
            FormatWarning,
            stacklevel=3,
        )
    before_runtime = header.get("runtime", "eager")
    if before_runtime != runtime and "int8" in (before_runtime, runtime):
        warnings.warn(
            f"{path} was written with runtime={before_runtime!r:.20} and continues with runtime={runtime!r}: its state was "
            "computed with other weights",
            RuntimeChanged,
            stacklevel=3,
        )
    return session


def _check(
    path: Any, header: dict[str, Any], tensors: dict[str, Tensor], model: Model, tokenizer: Tokenizer, weights: Seen
) -> None:
    """Raise unless the header is one of this model's sessions, and the tensors (without data) fit it."""
    described(path, header)
    _check_fits(path, header, model, tokenizer, weights)
    with _own(path):
        if not 0 <= header["position"] < FARTHEST:
            raise ValueError(f"position {header['position']} is out of range")
        _state(header, tensors, model)
        wanted = None if not header["position"] else ((model.cfg.vocab_size,), model.like.dtype)
        logits = tensors.get("logits")
        if (None if logits is None else (tuple(logits.shape), logits.dtype)) != wanted:
            raise ValueError("position, state and logits do not belong together")


def _restored(path: Any, header: dict[str, Any], tensors: dict[str, Tensor], model: Model) -> tuple[State, Tensor | None, Tensor]:
    """State, logits and sampler of a file whose header fits."""
    with _own(path):
        state = _state(header, tensors, model)
        if [int(p) for p in state.position] != [header["position"]]:
            raise ValueError("position, state and logits do not belong together")
        logits = tensors.get("logits")
        return state, None if logits is None else logits.to(model.like.device), checked_state(tensors["sampler"])


def _state(header: dict[str, Any], tensors: dict[str, Tensor], model: Model) -> State:
    return model.load_state({k[len(PREFIX) :]: x for k, x in tensors.items() if k.startswith(PREFIX)}, header["state"])


@contextmanager
def _own(path: Any) -> Iterator[None]:
    """Turns every error that the contents of a file cause into SessionCorrupt."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        said = f"{type(error).__name__} {error}" if isinstance(error, LookupError) else str(error)
        raise SessionCorrupt(
            f"{path} holds a state that does not fit its own description: {said[:300]}; take another copy"
        ) from None


def described(path: str | os.PathLike[str], header: dict[str, Any]) -> None:
    """Raise SessionCorrupt unless a header has all its entries, each of the right type."""
    kinds = {"position": int, "model": dict, "tokenizer": str, "dtype": str, "state": dict, "parts": dict, "notes": dict}
    for key, kind in kinds.items():
        if not isinstance(header.get(key), kind) or isinstance(header.get(key), bool):
            raise SessionCorrupt(f"{path} describes no session: its {key!r} is {header.get(key)!r:.80}, expected {kind.__name__}")
    if not isinstance(header["model"].get("config"), dict) or not isinstance(header["model"].get("weights"), str):
        raise SessionCorrupt(f"{path} describes no session: its 'model' lacks a configuration or a fingerprint of weights")


def theirs(path: str | os.PathLike[str], header: dict[str, Any]) -> LMConfig:
    """The configuration of the model that wrote a file. Raises SessionMismatch if this Siltstone cannot build it."""
    try:
        return LMConfig.from_dict(header["model"]["config"], stored=True)
    except (ConfigError, TypeError, ValueError, RecursionError) as error:
        said = str(error)[:300]
        raise SessionMismatch(f"{path} was written by a model that this Siltstone cannot build: {said}") from None


def _text(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _dtype(model: Model) -> str:
    return str(model.like.dtype).removeprefix("torch.")


def _check_fits(path: str | os.PathLike[str], header: dict[str, Any], model: Model, tokenizer: Tokenizer, weights: Seen) -> None:
    given, ours = header["model"]["config"], model.cfg.to_dict()
    if _text(given) == _text(ours):
        given = ours
    elif isinstance(model.cfg, LMConfig):  # it may be of another version, with fewer keys or older names
        given = theirs(path, header).to_dict()
    apart = [key for key in ours | given if given.get(key) != ours.get(key)]
    differ = [f"{key} is {given.get(key)!r:.60} there and {ours.get(key)!r:.60} here" for key in apart]
    if differ:
        raise SessionMismatch(
            f"{path} was written by a model of another configuration: {'; '.join(differ[:4])}; "
            "use that model, or another session file"
        )
    if header["dtype"] != _dtype(model):
        raise SessionMismatch(
            f"{path} was written by a model in {header['dtype'][:20]!a}, and this model is in {_dtype(model)}; "
            "load the model in the same dtype"
        )
    if header["model"]["weights"] != weights.fingerprint:
        raise SessionMismatch(
            f"{path} was written by a model with other weights (same configuration); use that model's run folder, "
            "or another session file"
        )
    if header["tokenizer"] != tokenizer.fingerprint:
        raise SessionMismatch(f"{path} was written with another tokenizer; use the one in that model's run folder")
    known = header["model"].get("fingerprint")
    if known is not None and known != with_tokenizer(weights.fingerprint, tokenizer):
        raise SessionCorrupt(f"{path} is inconsistent: its fingerprints of model and tokenizer do not belong together")
