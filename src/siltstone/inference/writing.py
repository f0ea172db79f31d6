"""One generated text: checks the options, says which tokens may come, and makes pieces of text from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..text import StreamDecoder, Tokenizer
from .sampling import StopStrings, check_options


class Writer:
    """At most `max_new_tokens` tokens; the options are those of `Session.generate`. Raises InputError for options out of range.

    The owner samples from `allowed` logits until `ended`, reads each `chosen` token, gives it to `push`, and calls `finish`
    last.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> None:
        if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 0:
            raise InputError(f"max_new_tokens={max_new_tokens!r} must be a whole number of at least 0")
        check_options(temperature, top_k, top_p)
        self.left = max_new_tokens
        self.options = temperature, top_k, top_p
        self._stops = StopStrings(() if stop is None else stop)
        self._met = False
        self._tokenizer, self._decoder = tokenizer, StreamDecoder(tokenizer)
        self._never = [i for i in (tokenizer.bos_id, tokenizer.pad_id) if i is not None and i != tokenizer.eos_id]

    @property
    def ended(self) -> bool:
        """Whether no further token is to be chosen."""
        return self.left == 0

    def allowed(self, logits_V: Tensor) -> Tensor:
        """The logits of the tokenizer's ids, float32 on the CPU; -inf for those that are never written."""
        logits = logits_V[: self._tokenizer.vocab_size].to("cpu", torch.float32, copy=True)
        logits[self._never] = -torch.inf
        return logits

    def chosen(self, token: int) -> int | None:
        """The token that was chosen; None if it is the end token, which ends the text and is not read."""
        if token == self._tokenizer.eos_id:
            self.left = 0
            return None
        self.left -= 1
        return token

    def push(self, token: int) -> str:
        """The text to show after a token that was read."""
        piece, self._met = self._stops.push(self._decoder.push([token]))
        if self._met:
            self.left = 0
        return piece

    def finish(self) -> str:
        """The rest of the text."""
        if self._met:
            return ""
        piece, met = self._stops.push(self._decoder.finish())
        return piece + ("" if met else self._stops.finish())


def check_seed(seed: int | None) -> None:
    """InputError unless it is None or a whole number of 64 bits."""
    if seed is None:
        return
    if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**64:
        raise InputError(f"seed={seed!r} must be a whole number of 64 bits, or None to continue with the session's own sampler")
