"""Cuts for models with segments="content", as in sessions: a cut at every token that contains `cut_at`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..models.streaming import StreamingModel
from ..text import Tokenizer, cut_table


@contextmanager
def cut_as_sessions_do(model: StreamingModel, tokenizer: Tokenizer) -> Iterator[None]:
    """Inside the block, calls of the model without `cut` get the cuts of a session. Models without cuts do not change."""
    table = cut_table(model.cfg, tokenizer)
    if table is None:
        yield
        return
    original = model.features

    def features(
        ids: Tensor, state: Any = None, mask: Any = None, reset: Any = None, inplace: bool = False, cut: Tensor | None = None
    ) -> Any:
        return original(ids, state, mask, reset, inplace, table[ids.cpu()] if cut is None else cut)

    model.features = features  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.features
