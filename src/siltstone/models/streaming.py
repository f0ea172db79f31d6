"""The protocol of a streaming model. Sessions, session files, streams, sampling, the doctor and `eval` require nothing else.

`LM` implements it. Any other torch module can implement it with these few methods and its own state. The laws are:

1. Splitting a text into calls changes nothing: features(a + b) equals features(a), then features(b) from the returned state.
2. A state is a value: a call does not change the state it is given, unless `inplace` is true; the module stores no state.
3. Rows are independent: a row in a batch gives the same result as alone; padding (mask) changes nothing; reset starts afresh.
4. A state that was saved by `tensors()` and `meta()` and loaded again continues bit for bit with the same calls.

`siltstone.doctor.run.examine` checks all four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class StreamingConfig(Protocol):
    """The configuration of a model. It may also have `content` and `cut_at` (see `siltstone.text.cut_table`): if `content` is
    true, calls get the argument `cut`."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def fingerprint(self) -> str:
        """A text that identifies the configuration: configurations that compute different things have different texts."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The keys and values, ready for JSON: they are stored in session files, and errors list those that differ."""
        ...


class StreamingState(Protocol):
    """The positions and memories of the rows of a batch. It may also have `parts()`, its bytes by part."""

    @property
    def position(self) -> Any:
        """[B] whole numbers: tokens of each row so far."""
        ...

    @property
    def nbytes(self) -> int:
        """Live bytes."""
        ...

    def fork(self) -> Any:
        """A copy that an `inplace` call on the original does not change."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Every live tensor by name, contiguous."""
        ...

    def meta(self) -> dict[str, Any]:
        """The rest of the state, ready for JSON."""
        ...

    @staticmethod
    def cat(states: Sequence[Any]) -> Any:
        """Concatenates the rows of several states (only the doctor's batches need it)."""
        ...


class StreamingModel(Protocol):
    """A torch module that reads and predicts tokens."""

    @property
    def cfg(self) -> StreamingConfig:
        """The model's configuration."""
        ...

    @property
    def like(self) -> Tensor:
        """A tensor on the device and in the dtype of its logits, such as a weight."""
        ...

    def init_state(self, batch: int) -> StreamingState:
        """The state of `batch` rows before their first token."""
        ...

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> StreamingState:
        """A state from `tensors()` and `meta()`. Raises InputError, or another ValueError, if they do not fit the model.

        Tensors may be on the meta device, without data: then names, dtypes and shapes must be checked.
        """
        ...

    def features(
        self,
        ids: Tensor,
        state: Any = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        inplace: bool = False,
        cut: Tensor | None = None,
    ) -> tuple[Tensor, StreamingState]:
        """ids int64 [B, T], T >= 0 -> hidden states [B, T, D] and the state after.

        state    the state that an earlier call returned; None: no earlier token
        mask     bool [B, T], False = padding; None: all valid
        reset    bool [B, T], True = the row forgets everything before this token
        inplace  `state` may be updated in place; the caller must not use it again
        cut      bool [B, T], given only if `cfg.content` is true
        """
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> logits [..., vocab_size]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The weights by name, as torch's modules give them."""
        ...


NEEDS = ("cfg", "like", "init_state", "load_state", "features", "head")


def is_streaming(model: Any) -> bool:
    """Whether a model is a torch module with the attributes of a `StreamingModel`."""
    return isinstance(model, torch.nn.Module) and all(hasattr(model, x) for x in NEEDS) and hasattr(model.cfg, "fingerprint")


def logits(model: StreamingModel, ids: Tensor, state: Any = None, **flags: Any) -> tuple[Tensor, Any]:
    """Logits [B, T, vocab_size] of ids [B, T], and the state after. flags: arguments of `StreamingModel.features`.

    An `LM` is called as a module, so that hooks on it are run.
    """
    from .lm import LM

    if isinstance(model, LM):
        return model(ids, state, **flags)
    hidden, state = model.features(ids, state, **flags)
    return model.head(hidden), state
