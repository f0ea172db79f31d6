"""Runtimes: how a model's calls are computed.

    eager      the model as it is
    compiled   one-token steps as compiled programs; texts as in `eager`
    int8       linear layers of blocks in 8 bits with a scale per row, embeddings and states as they are; steps are compiled where
               there is a compiler
    auto       eager; once a model has taken many one-token steps, and there is a compiler, as `compiled`

A runtime belongs to a model, and its sessions share it. Programs are compiled by a thread while eager steps serve, except that
the first step of `compiled` and `int8` waits. Compiled steps round differently from eager ones: with `auto`, where the change
happens depends on the compiler's speed.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import weakref
from typing import Any, Literal, get_args

from torch import Tensor

from ..errors import InputError
from ..layers.products import rounded, twin
from ..models.fingerprint import Seen
from ..models.lm import LM
from ..models.stream_state import LMState
from ..models.streaming import StreamingModel
from .program import CompiledStep

Flags = tuple[Tensor | None, Tensor | None, Tensor | None]  # active, cut, reset: bool [B]; None: not given
Name = Literal["auto", "eager", "compiled", "int8"]
NAMES: tuple[Name, ...] = get_args(Name)
AUTO_STEPS, AUTO_PARAMETERS = 512, 5_000_000  # from these on `auto` compiles: before, compiling takes longer than it saves

_known: weakref.WeakKeyDictionary[Any, dict[str, Runtime]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def runtime(model: StreamingModel, name: str = "auto") -> Runtime:
    """The runtime of this name; InputError for an unknown name, and for one that is not there for this model or machine."""
    if name not in NAMES:
        raise InputError(f"runtime={name!r} is not known; choose one of {', '.join(NAMES)}")
    if name in ("compiled", "int8") and not isinstance(model, LM):
        raise InputError(f"runtime={name!r} needs an LM, and the model is a {type(model).__name__}; use runtime='eager'")
    if name == "compiled" and not compiler():
        raise InputError("runtime='compiled' needs a C++ compiler, and none was found: install g++ or clang++, or use 'eager'")
    with _lock:
        mine = _known.setdefault(model, {})
        found = mine.get(name)
        if found is None or found.stale(model):
            found = mine[name] = Runtime(model, name)
        return found


def compiler() -> str | None:
    """The path of the C++ compiler that programs are made with, or None."""
    return next(
        (found for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name and (found := shutil.which(name))), None
    )


class Runtime:
    """See the module.

    name      one of NAMES
    model     reads texts: `features` and `head`
    compiles  whether one-token steps go through `step`
    """

    def __init__(self, model: StreamingModel, name: str):
        self.name = name
        self._program: CompiledStep | None = None
        self._steps = 0
        self._model = weakref.ref(model)
        self._rounded: LM | None = None
        self._seen: Seen | None = None  # the weights that were rounded
        self._parts: list[Any] = []  # what the program and the rounded model were made of
        if name == "int8" and isinstance(model, LM):
            self._seen = Seen(model)
            self._rounded = same(model)
            self._rounded.blocks = twin(model.blocks, rounded)
        large = isinstance(model, LM) and model.parameters_count >= AUTO_PARAMETERS
        self._auto = name == "auto" and large and model.like.device.type == "cpu" and compiler() is not None
        if isinstance(model, LM) and (name == "compiled" or name == "int8" and compiler()):
            self._program = CompiledStep(self._rounded or same(model), wait="first")
        if isinstance(model, LM) and (self._rounded or self._program):
            self._parts = _parts(model)

    def stale(self, model: StreamingModel) -> bool:
        """Whether the weights or modules were changed since the program was made, or the weights were rounded."""
        if self._parts and isinstance(model, LM):
            now = _parts(model)
            if len(now) != len(self._parts) or any(x is not y for x, y in zip(now, self._parts, strict=True)):
                return True
        return self._seen is not None and bool(self._seen.changed(model))

    def reader(self, model: StreamingModel) -> StreamingModel:
        """The model that reads texts."""
        return self._rounded or model

    def step(self, model: LM, ids: Tensor, state: LMState, flags: Flags) -> tuple[Tensor, LMState]:
        """One token of each of some rows, as `LM.step`: flags are active, cut and reset. `state` is given up."""
        program = self.program
        if program is None:
            return (self._rounded or model).step(ids, state, *flags, inplace=True)
        return program.step(ids, state, flags)

    @property
    def program(self) -> CompiledStep | None:
        """What takes one-token steps; None: eager steps."""
        if self._auto and self._program is None:
            self._steps += 1
            model = self._model()
            if self._steps > AUTO_STEPS and isinstance(model, LM):
                with _lock:
                    if self._program is None:
                        self._program, self._parts = CompiledStep(same(model), wait="none"), _parts(model)
        program = self._program
        if program is not None and program.failed is not None:
            if self._auto:
                said = str(program.failed).strip().splitlines()[:1]
                logging.getLogger("siltstone").warning("one-token steps stay eager: the compiler failed: %s", *said or [""])
                self._auto = False
            if self.name == "auto":
                return None
        return program


def same(model: LM) -> LM:
    """The model with nothing replaced: what held the model itself would keep it alive for ever."""
    return twin(model, lambda module: None)


def _parts(model: LM) -> list[Any]:
    """Every module but the model itself, with its class, its tensors, its hooks, and a `forward` of its own."""
    found: list[Any] = []
    for module in model.modules():
        held = (module._parameters, module._buffers, module._forward_pre_hooks, module._forward_hooks)
        found += [module, type(module), *(x for part in held for x in part.values()), vars(module).get("forward")]
    return found[2:]


def one_step(runtime: Runtime, ids: Tensor, state: Any, cut: Tensor | None) -> tuple[Tensor, Any] | None:
    """Logits [1, vocab_size] and the state after one token; None: the runtime takes eager steps."""
    program = runtime.program
    return None if program is None else program.step(ids, state, (None, cut, None))
