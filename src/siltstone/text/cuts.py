"""The tokens at which a text is cut: they end a segment of a model with segments="content"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import TokenizerError
from .tokenizer import Tokenizer


def cut_table(cfg: Any, tokenizer: Tokenizer) -> Tensor | None:
    """bool [vocab_size], True for tokens that contain the text `cut_at`; `table[ids]` is the argument `cut` of a call.

    cfg   a model's configuration; without the attribute `content`, the model takes no cuts
    Returns None if the model takes no cuts or cut_at is None. Raises TokenizerError if no token contains cut_at.
    """
    if not getattr(cfg, "content", False) or cfg.cut_at is None:
        return None
    wanted = cfg.cut_at.encode("utf-8")
    table = torch.zeros(cfg.vocab_size, dtype=torch.bool, device="cpu")
    for token in range(min(tokenizer.vocab_size, cfg.vocab_size)):
        table[token] = wanted in tokenizer.token_bytes(token)
    if not table.any():
        raise TokenizerError(
            f"cut_at={cfg.cut_at!r}: no token of this tokenizer contains that text, so that there would be no cuts; "
            "choose a text that one token contains, for example '\\n', or null"
        )
    return table
