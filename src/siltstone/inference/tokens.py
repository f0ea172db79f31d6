"""Inputs of a session: checks ids, splits them into calls, and computes their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..text import Tokenizer

Score = Callable[[Tensor | None, Tensor, Tensor], Tensor]  # as `log_probabilities`
CHUNK = 512  # maximum tokens in a call of the model; it bounds the memory of an append of any length


def encoded(text: str | Sequence[int] | Tensor, tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """int64 ids [tokens] on the CPU. Raises InputError unless given a text or one row of the model's ids."""
    if isinstance(text, str):
        return torch.tensor(tokenizer.encode(text), dtype=torch.long, device="cpu")
    try:
        if isinstance(text, list | tuple) and any(isinstance(x, bool) for x in text):
            raise TypeError
        ids = text if isinstance(text, Tensor) else torch.as_tensor(text, device="cpu")
        if ids.layout != torch.strided or ids.is_nested:
            raise TypeError
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"append takes text or a list of ids, and {_given(text)} was given") from None
    if not ids.numel():
        return torch.empty(0, dtype=torch.long, device="cpu")
    if ids.dim() == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.dim() != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(f"ids must be whole numbers in one row, and {ids.dtype} {tuple(ids.shape)} was given")
    ids = ids.to("cpu", torch.long)
    low, high = (int(x) for x in ids.aminmax())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"ids contain {low if low < 0 else high}, and the model has ids 0 to {vocab_size - 1}; "
            "encode the text with the model's own tokenizer"
        )
    return ids


def chunks(ids_T: Tensor) -> Sequence[Tensor]:
    """The ids of each call."""
    return ids_T.split(CHUNK) if len(ids_T) else ()


def log_probabilities(last_V: Tensor | None, logits_TV: Tensor, ids_T: Tensor) -> Tensor:
    """Natural-log probability of each id under the logits before it; nan for the first id if there are none."""
    first_1V = torch.full_like(logits_TV[:1], torch.nan) if last_V is None else last_V[None]
    before_TV = torch.cat([first_1V, logits_TV[:-1]])
    index_T1 = ids_T.to(before_TV.device)[:, None]
    return torch.log_softmax(before_TV.float(), -1).gather(1, index_T1)[:, 0].cpu()


def _given(text: Any) -> str:
    if isinstance(text, Tensor):
        return f"a tensor of layout {text.layout}"
    return f"{type(text).__name__}{' with truth values' if isinstance(text, list | tuple) and True in text else ''}"
