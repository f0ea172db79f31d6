"""Where a text can be cut so that its pieces can be tokenized one by one: the ids are those of the whole text.

A cut is tried where the class of characters changes, and is taken if the tokenizer agrees: the ids of the text around it are
the ids of its left part and then those of its right part. The text around it begins at such a change too, 64 to 1,024
characters before (or where the piece begins), and ends 64 characters behind. The pre-tokenizers of GPT-2, cl100k, o200k,
Llama 3, Qwen and DeepSeek go on from a change of class without regard to what was before, and decide on it before the
following text can matter (docs/decisions/0018-tokenizers-are-proved.md). A tokenizer whose `joins` is true goes on from there
otherwise; the text around a cut begins where the piece begins then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import TypeGuard

from .tokenizer import ByteTokenizer, Tokenizer

CONTEXT = 64  # characters
_TRIES, _RUN, _STEP = 32, 4096, 256
_SPACE = re.compile(r"(?<=\S)(?=[ \t\r\n])")
_EDGE = re.compile(r"(?<=\n)(?=\S)|(?<=\w)(?=[^\w\s])|(?<=[^\w\s])(?=\w)|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_CHANGE = re.compile(f"{_SPACE.pattern}|{_EDGE.pattern}")


def proves(tokenizer: Tokenizer | None) -> TypeGuard[Tokenizer]:
    """Whether cuts for this tokenizer are proved: not without one, and not for bytes, which may be cut anywhere."""
    return tokenizer is not None and not isinstance(tokenizer, ByteTokenizer)


def joins(token: str) -> bool:
    """Whether a token that is found before all else, as an added one is, holds a place where cuts are tried."""
    return _CHANGE.search(token) is not None


def seam(text: str, size: int, bound: int, tokenizer: Tokenizer | None, ended: bool) -> int:
    """Characters of the first piece of `text`; 0 if more of the text must be seen.

    size        a piece has at most so many characters where a cut among them is proved
    bound       and at most so many elsewhere; at least `size`
    tokenizer   what proves a cut. None, or the byte tokenizer (which may be cut anywhere): a cut between a character that is
                no white space and a space, tab or line end is taken unseen
    ended       whether `text` is all there is

    A run without a proved cut is cut unseen, at the last such place up to `size`, or else at `bound`. A text that goes on in
    the same way for `bound + CONTEXT` characters gives the same piece, whatever follows and however much of it is given.
    Raises what the tokenizer raises for the text.
    """
    if ended and len(text) <= size:
        return len(text)
    proof = tokenizer.encode if proves(tokenizer) else None
    ahead, whole = 1 if proof is None else CONTEXT, getattr(tokenizer, "joins", False)
    for limit in (size, bound):
        if len(text) < limit + ahead and not ended:
            return 0
        view = text[: limit + ahead]
        for place in _places(view, size, limit, proof is not None):
            if proof is None or _holds(view, place, 0 if whole else _begin(view, place), proof):
                return place
    if ended and len(text) <= bound:
        return len(text)
    if proof is not None and size <= _RUN:  # a long run, of digits for example, may have a cut in it that its beginning proves
        for place in range(size, max(0, size - 8), -1):
            if _holds(text, place, 0, proof):
                return place
    return next(_latest(_SPACE, text, size), bound)


def _places(text: str, size: int, limit: int, edges: bool) -> Iterator[int]:
    """Where to try: up to `size` the latest first, at white space before other edges; beyond it the earliest first."""
    if limit == size:
        found = islice(_latest(_SPACE, text, size), _TRIES)
        return chain(found, islice(_latest(_EDGE, text, size), _TRIES)) if edges else found
    change = _CHANGE if edges else _SPACE
    return islice((m.start() for m in change.finditer(text, size + 1, limit + 1)), _TRIES)


def _latest(pattern: re.Pattern[str], text: str, size: int) -> Iterator[int]:
    """Places from `size` down to 1 where a pattern without width matches."""
    end = min(size, len(text) - 1)
    while end > 0:
        begin = max(1, end - _STEP + 1)
        yield from reversed([m.start() for m in pattern.finditer(text, begin, end + 1)])
        end = begin - 1


def _begin(text: str, place: int) -> int:
    """Where the text around a place begins."""
    for reach in (2 * CONTEXT, 16 * CONTEXT):
        found = _CHANGE.search(text, max(1, place - reach), max(1, place - CONTEXT + 1))
        if found:
            return found.start()
    return 0


def _holds(text: str, place: int, begin: int, encode: Callable[[str], list[int]]) -> bool:
    """Whether the text around a place gives the same ids whole and in two."""
    left, right = text[begin:place], text[place : place + CONTEXT]
    return encode(left + right) == encode(left) + encode(right)
