"""Fingerprints of weights, configuration and tokenizer, always of the current values of the weights.

torch has no reliable sign that a tensor was changed: fused optimisers do not increase its version counter. Therefore sums of the
content are computed at every query, at memory bandwidth, and the SHA-256 is computed again only if the sums differ.
"""

from __future__ import annotations

import copy
import hashlib
import weakref
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, SessionMismatch
from ..io.tensors import tensor_bytes
from ..text import Tokenizer
from .streaming import StreamingConfig, is_streaming

ROW = 1024
SMALL, STRIDE = 8192, 61
FROZEN = "_frozen"
Model = TypeVar("Model")
Sums = dict[str, tuple[Any, ...]]
_KNOWN: weakref.WeakKeyDictionary[Any, tuple[Sums, str]] = weakref.WeakKeyDictionary()


def plain_model(model: Any) -> Any:
    """The model itself, without the wrappers of `torch.compile` and `DistributedDataParallel`."""
    for name in ("_orig_mod", "module"):
        inner = getattr(model, name, None)
        if is_streaming(inner):
            return plain_model(inner)
    return model


def check_pair(model: Any, tokenizer: Any) -> Any:
    """The model itself (see `plain_model`); InputError unless they are a model and a tokenizer."""
    model = plain_model(model)
    for name, given, ok, makers in (
        ("model", model, is_streaming(model), "st.LM(cfg)"),
        ("tokenizer", tokenizer, isinstance(tokenizer, Tokenizer), "st.ByteTokenizer(), st.train_bpe(paths, vocab_size)"),
    ):
        if not ok:
            raise InputError(f"{name} is a {type(given).__name__}; give a {name} such as {makers} or st.load(folder) makes")
    return model


def weights_of(model: Any) -> dict[str, Tensor]:
    """Every weight by its name, with the values that the model uses: for a parametrised weight, the computed one.

    For modules that torch has quantised, codes and scales. Wrapping in `torch.compile` does not change the names.
    Raises InputError for weights that are not tensors, and for tensors whose values cannot be read.
    """
    found: dict[str, Tensor] = {}
    for name, x in model.state_dict().items():
        owner, parametrised, rest = name.partition("parametrizations.")
        if parametrised:
            weight = rest.split(".")[0]
            found[owner + weight] = getattr(model.get_submodule(owner.rstrip(".")), weight).detach()
        else:
            found |= _tensors(name, x)
    return {name.replace("_orig_mod.", ""): x for name, x in found.items()}


def _tensors(name: str, x: Any) -> dict[str, Tensor]:
    """The tensors of one entry of a state dict."""
    if isinstance(x, tuple | list):
        return {key: y for i, part in enumerate(x) for key, y in _tensors(f"{name}.{i}", part).items()}
    if isinstance(x, Tensor) and x.is_quantized:
        affine = x.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        scale = torch.tensor(x.q_scale(), dtype=torch.float64, device="cpu") if affine else x.q_per_channel_scales()
        return {f"{name}.codes": x.int_repr(), f"{name}.scale": scale}
    if isinstance(x, Tensor):
        if x.is_meta or x.is_nested or x.layout != torch.strided:
            kind = "on the device meta, without values" if x.is_meta else f"of layout {x.layout}"
            raise InputError(f"the model's weight {name} is {kind}; give a model of ordinary tensors")
        return {name: x}
    if x is None or isinstance(x, torch.dtype):
        return {}
    if callable(getattr(x, "__getstate__", None)) and type(x).__module__.startswith("torch"):
        return _tensors(name, _plain(x.__getstate__()))
    raise InputError(
        f"the model's weight {name} is a {type(x).__name__}, which cannot be hashed; give a model whose weights are tensors"
    )


def _plain(x: Any) -> Any:
    """The nested tuples of a packed weight; entries that are neither tensors nor packed weights become None."""
    if isinstance(x, tuple | list):
        return tuple(_plain(y) for y in x)
    return x if isinstance(x, Tensor) or type(x).__module__.startswith("torch") else None


def config_text(cfg: StreamingConfig) -> str:
    """The text that identifies a configuration; see `LMConfig.fingerprint`."""
    return cfg.fingerprint


def fingerprint_of(cfg: StreamingConfig, weights: dict[str, Tensor]) -> str:
    """SHA-256 of the configuration, and of every weight's name, dtype, shape and bytes, in hexadecimal."""
    digest = hashlib.sha256(config_text(cfg).encode("utf-8"))
    for name, tensor in sorted(weights.items()):
        digest.update(f"\n{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def with_tokenizer(weights: str, tokenizer: Tokenizer) -> str:
    """The joint fingerprint of model and tokenizer, from the fingerprint of the weights."""
    return hashlib.sha256(f"siltstone-2\n{weights}\n{tokenizer.fingerprint}".encode()).hexdigest()


class Seen:
    """A record of a model's weights at one time: `fingerprint` (see `fingerprint_of`), and sums that detect later changes."""

    glance: tuple[int, ...] | None = None  # of a frozen model

    def __init__(self, model: Any) -> None:
        frozen = model.__dict__.get(FROZEN)
        if frozen is not None and frozen.glance == _glance(model):
            self.sums, self.fingerprint = frozen.sums, frozen.fingerprint
            return
        weights = weights_of(model)
        self.sums = {name: _sums(x) for name, x in weights.items()}
        known = _KNOWN.get(model)
        if known is None or known[0] != self.sums:
            known = _KNOWN[model] = (self.sums, fingerprint_of(model.cfg, weights))
        self.fingerprint = known[1]

    def changed(self, model: Any) -> list[str]:
        """Names of the weights that have changed, are missing or are new."""
        now = Seen(model).sums
        return sorted(name for name in now.keys() | self.sums.keys() if now.get(name) != self.sums.get(name))

    def check(self, model: Any, owner: str) -> None:
        """SessionMismatch, with names of weights, if they have changed. owner: what was made at that time, for the message."""
        if changed := self.changed(model):
            names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise SessionMismatch(
                f"the model's weights were changed since {owner} was made ({names}), and its state belongs to the old ones; "
                "make a new session, or restore the old weights"
            )


class Watch:
    """A quick look at a model's weights, without their content: whether torch counts a change in place, or another tensor has
    been assigned. It does not see changes through `.data`, by numpy or by fused optimisers: `Seen` does."""

    def __init__(self, model: torch.nn.Module) -> None:
        modules = list(model.modules())
        self._owners = [(held, name) for m in modules for held in (m._parameters, m._buffers) for name in held]
        self._tensors = [held[name] for held, name in self._owners]
        self._counts = [_count(x) for x in self._tensors]

    def moved(self) -> bool:
        """Whether a weight is another tensor than before, or was changed in place."""
        weights = zip(self._owners, self._tensors, self._counts, strict=True)
        return any(held.get(name) is not x or _count(x) != count for (held, name), x, count in weights)


def _count(x: Tensor | None) -> int:
    return 0 if x is None or x.is_inference() else x._version


def freeze(model: Model) -> Model:
    """A copy of a model with constant weights: for servers, where many sessions share it.

    It is in evaluation mode and has no gradients. Its weights are hashed once for any number of sessions. torch raises
    RuntimeError if a weight is changed in place. torch does not detect changes through `.data`, numpy or in inference mode;
    `Session.save` detects them and raises SessionMismatch if they change a small weight, or half a kilobyte in a row of a large
    one.
    """
    model = plain_model(model)
    if not is_streaming(model):
        raise InputError(f"model is a {type(model).__name__}; give a model such as st.LM(cfg) or st.load(folder) makes")
    with torch.inference_mode():
        twin: Any = copy.deepcopy(model)
        twin.requires_grad_(False).eval()
        seen = Seen(twin)
    seen.glance = _glance(twin)
    twin.__dict__[FROZEN] = seen
    return twin


def _glance(model: Any) -> tuple[int, ...] | None:
    """For a model whose weights are all inference tensors of torch: their addresses, and a sum of their 8-byte words (all words
    of a small weight; every 61st word, one in 488 bytes, of a large one). None for any other model."""
    weights = list(model.state_dict(keep_vars=True).values())
    if not all(isinstance(x, Tensor) and x.is_inference() and x.data.is_contiguous() for x in weights):
        return None
    words = (np.frombuffer(tensor_bytes(x), np.uint8) for x in weights)
    return tuple(n for x, data in zip(weights, words, strict=True) for n in (x.data_ptr(), len(data), _glimpse(data)))


def _glimpse(data: np.ndarray) -> int:
    words = data[: len(data) // 8 * 8].view(np.uint64)
    some = words if len(words) <= SMALL else words[::STRIDE]
    return hash((int((some * np.arange(1, 2 * len(some) + 1, 2, dtype=np.uint64)).sum()), data[len(words) * 8 :].tobytes()))


def _sums(x: Tensor) -> tuple[Any, ...]:
    """Sums over rows and over columns of the weight's 8-byte words, weighted by position: they change if any one word changes, or
    if any two words are swapped."""
    data = np.frombuffer(tensor_bytes(x), np.uint8)
    words = data[: len(data) // 8 * 8].view(np.uint64)
    table = words[: len(words) // ROW * ROW].reshape(-1, ROW)
    sums = (int((s * np.arange(1, 2 * len(s) + 1, 2, dtype=np.uint64)).sum()) for s in (table.sum(0), table.sum(1)))
    return str(x.dtype), tuple(x.shape), *sums, hash(data[table.size * 8 :].tobytes())
