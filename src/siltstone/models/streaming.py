"""What a model must have to be streamed. Sessions, their files, streams, sampling, the doctor and `eval` ask for no more.

`LM` fulfils it; so does any torch module with these few methods and a state of its own, which must keep the laws:

1. Splitting a text into calls changes nothing: features(a + b) is features(a), then features(b) from the state that came back.
2. A state is a value: a call leaves the one it is given as it was, unless `inplace` gives it up; the module keeps none.
3. Rows are independent: one in a batch is computed as it would be alone, padding (mask) changes nothing, reset begins anew.
4. A state that went through `tensors()` and `meta()` goes on in the same calls bit for bit.

`siltstone.doctor.run.examine` checks all four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class StreamingConfig(Protocol):
    """The choices that a model was made with. It may also have `content` and `cut_at` (see `siltstone.text.cut_table`): where
    `content` is true, calls are given the flag `cut`."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def fingerprint(self) -> str:
        """A text that names the choices: two configurations that compute different things have different ones."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The choices, ready for JSON: session files hold them, and name those that differ."""
        ...


class StreamingState(Protocol):
    """Where the rows of a batch stand, and what they remember. It may also have `parts()`, its bytes by part."""

    @property
    def position(self) -> Any:
        """[B] whole numbers: tokens of each row so far."""
        ...

    @property
    def nbytes(self) -> int:
        """Live bytes."""
        ...

    def fork(self) -> Any:
        """A copy that a call with `inplace` of the original cannot reach."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Every live tensor by name, contiguous."""
        ...

    def meta(self) -> dict[str, Any]:
        """What the tensors do not say, ready for JSON."""
        ...

    @staticmethod
    def cat(states: Sequence[Any]) -> Any:
        """Rows of several states, one after the other (the doctor's batches alone need it)."""
        ...


class StreamingModel(Protocol):
    """A torch module that reads and predicts tokens."""

    @property
    def cfg(self) -> StreamingConfig:
        """What it was made with."""
        ...

    @property
    def like(self) -> Tensor:
        """A tensor on the device and in the dtype of its logits, such as a weight."""
        ...

    def init_state(self, batch: int) -> StreamingState:
        """Rows that have seen nothing."""
        ...

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> StreamingState:
        """A state from `tensors()` and `meta()`. Raises InputError, or another ValueError, where they do not fit the model.

        Tensors may be on the meta device, without data: their names, dtypes and shapes are to be checked then.
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

        state    what an earlier call returned; None: nothing seen
        mask     bool [B, T], False = padding; None: all valid
        reset    bool [B, T], True = the row forgets everything before this token
        inplace  the caller gives `state` up, and it may be updated in place
        cut      bool [B, T], given only where `cfg.content` is true
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
    """Whether it is a torch module with all that a `StreamingModel` has."""
    return isinstance(model, torch.nn.Module) and all(hasattr(model, x) for x in NEEDS) and hasattr(model.cfg, "fingerprint")


def logits(model: StreamingModel, ids: Tensor, state: Any = None, **flags: Any) -> tuple[Tensor, Any]:
    """Logits [B, T, vocab_size] of ids [B, T], and the state after. flags: those of `StreamingModel.features`.

    An `LM` is called as the module it is, so that hooks on it take part.
    """
    from .lm import LM

    if isinstance(model, LM):
        return model(ids, state, **flags)
    hidden, state = model.features(ids, state, **flags)
    return model.head(hidden), state
