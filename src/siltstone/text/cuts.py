"""Where a text is cut: the tokens that end a segment of a model with segments="content"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import TokenizerError
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..config.model import LMConfig


def cut_table(cfg: LMConfig, tokenizer: Tokenizer) -> Tensor | None:
    """bool [vocab_size], True for tokens that hold the text `cut_at`; `table[ids]` is the flag `cut` of a call.

    None where the model takes no cuts, or cut_at is null. Raises TokenizerError where no token holds it.
    """
    if not cfg.content or cfg.cut_at is None:
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
