"""Where a text is cut: the tokens that end a segment of a model with segments="content"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import TokenizerError
from .tokenizer import Tokenizer


def cut_table(cfg: Any, tokenizer: Tokenizer) -> Tensor | None:
    """bool [vocab_size], True for tokens that hold the text `cut_at`; `table[ids]` is the flag `cut` of a call.

    cfg: a model's configuration; one without `content` takes no cuts.
    None where the model takes no cuts, or cut_at is null. Raises TokenizerError where no token holds it.
    """
    if not getattr(cfg, "content", False) or cfg.cut_at is None:
        return None
    wanted = cfg.cut_at.encode("utf-8")
    table = torch.zeros(cfg.vocab_size, dtype=torch.bool, device="cpu")
    for token in range(min(tokenizer.vocab_size, cfg.vocab_size)):
        table[token] = wanted in tokenizer.token_bytes(token)
    if not table.any():
        raise TokenizerError(
            f"cut_at={cfg.cut_at!r}: no token of this tokenizer holds that text, so that nothing would ever be cut; "
            "choose a text that one token holds, for example '\\n', or null"
        )
    return table
