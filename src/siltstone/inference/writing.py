"""One generated text: checks the options, says which tokens may come, and makes pieces of text from them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..text import StreamDecoder, Tokenizer
from .likely import Likely
from .sampling import StopStrings, check_options

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The options of `generate`. Raises InputError for those out of range."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    ends: Sequence[int] = ()
    bias: Mapping[int, float] | None = None
    likely: Likely | None = None

    def __post_init__(self) -> None:
        count, seed = self.max_new_tokens, self.seed
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InputError(f"max_new_tokens={count!r} must be a whole number of at least 0")
        for id_, more in (self.bias or {}).items():
            if not isinstance(id_, int) or isinstance(more, bool) or not isinstance(more, int | float) or not math.isfinite(more):
                raise InputError(f"bias={{{id_!r}: {more!r}}} must give finite numbers for ids")
        check_options(self.temperature, self.top_k, self.top_p)
        if seed is None:
            return
        if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**64:
            raise InputError(
                f"seed={seed!r} must be a whole number of 64 bits, or None to continue with the session's own sampler"
            )


class Generates(ABC, Generic[T]):
    """What a session and a member of a batch have in common: `generate`."""

    @abstractmethod
    def _generate(self, options: Options) -> T: ...

    def generate(
        self,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        ends: Sequence[int] = (),
        bias: Mapping[int, float] | None = None,
        likely: Likely | None = None,
    ) -> T:
        """Generates text and yields it in pieces; a token is appended before its piece is yielded.

        max_new_tokens  maximum number of tokens; fewer if the model predicts an end token (which is not appended)
        temperature     0 takes the most probable token; top_k, top_p restrict the choice to the most probable tokens
        stop            strings that end the generation; they are not yielded, not even in part, but their tokens are appended
        seed            seed of the sampler, which belongs to the session and is saved with it; None continues with its current
                        state (a new session has seed 0)
        ends            further ids that end the generation like the end token
        bias            numbers that are added to the logits of some ids, before the temperature
        likely          keeps the probabilities of the tokens, and of the most probable ids in their places
        The joined pieces are the text of the tokens; an incomplete character at the end becomes U+FFFD.
        Raises InputError for options out of range, and for a session without any token. In a batch the text is queued.
        """
        return self._generate(Options(max_new_tokens, temperature, top_k, top_p, stop, seed, ends, bias=bias, likely=likely))


class Writer:
    """The tokens and the text of one call of `generate`.

    The owner samples from `allowed` logits until `ended`, reads each `chosen` token, gives it to `push`, and calls `finish`
    last.
    """

    def __init__(self, tokenizer: Tokenizer, options: Options) -> None:
        self.left = options.max_new_tokens
        self.options = options.temperature, options.top_k, options.top_p
        self._stops = StopStrings(() if options.stop is None else options.stop)
        self._met, self.likely = False, options.likely
        self._bias = options.bias or {}
        if any(not 0 <= i < tokenizer.vocab_size for i in self._bias):
            raise InputError(f"bias has ids that the tokenizer lacks; ids are 0 to {tokenizer.vocab_size - 1}")
        self._tokenizer, self._decoder = tokenizer, StreamDecoder(tokenizer)
        self._ends = {tokenizer.eos_id, *getattr(tokenizer, "end_ids", ()), *options.ends}
        self._never = [i for i in (tokenizer.bos_id, tokenizer.pad_id) if i is not None and i not in self._ends]

    @property
    def ended(self) -> bool:
        """Whether no further token is to be chosen."""
        return self.left == 0

    def allowed(self, logits_V: Tensor) -> Tensor:
        """The logits of the tokenizer's ids with their bias, float32 on the CPU; -inf for those that are never written."""
        logits = logits_V[: self._tokenizer.vocab_size].to("cpu", torch.float32, copy=True)
        logits[self._never] = -torch.inf
        for id_, more in self._bias.items():
            logits[id_] += more
        return logits

    def chosen(self, token: int) -> int | None:
        """The token that was chosen; None if it is the end token, which ends the text and is not read."""
        if token in self._ends:
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
