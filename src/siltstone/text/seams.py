"""Places where a text can be split so that its pieces can be tokenized one by one: the ids are those of the whole text.

A split is tried where the class of characters changes. It is taken if the ids of the text around it are the ids of its left part
followed by those of its right part. The text around it begins at a change of class too, 64 to 1,024 characters earlier (or at
the beginning of the piece), and ends 64 characters later. The pre-tokenizers of GPT-2, cl100k, o200k, Llama 3, Qwen and
DeepSeek continue after a change of class independently of the earlier text, and decide on it before later text can matter
(docs/decisions/0018-tokenizers-are-proved.md). A tokenizer whose `joins` is true depends on earlier text; the text around a
split then begins at the beginning of the piece.
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
    """Whether splits are proved with this tokenizer: not without a tokenizer, and not for bytes, which can be split anywhere."""
    return tokenizer is not None and not isinstance(tokenizer, ByteTokenizer)


def joins(token: str) -> bool:
    """Whether an added token, which is matched before pre-tokenization, contains a place where splits are tried."""
    return _CHANGE.search(token) is not None


def seam(text: str, size: int, bound: int, tokenizer: Tokenizer | None, ended: bool) -> int:
    """Characters of the first piece of `text`; 0 if more of the text is needed.

    size        maximum characters of a piece if a split in it is proved
    bound       maximum characters of any other piece; at least `size`
    tokenizer   proves a split. None, or the byte tokenizer (bytes can be split anywhere): a split between a character that is
                not white space and a space, tab or line end is taken without a proof
    ended       whether `text` is the rest of the whole text

    A text without a proved split is split without a proof, at the last place before white space up to `size`, or else at `bound`.
    The piece depends only on the first `bound + CONTEXT` characters, not on the text after them or on how much of it is given.
    Raises the errors of the tokenizer for the text.
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
    if proof is not None and size <= _RUN:  # a long run, for example of digits, may have a split that its beginning proves
        for place in range(size, max(0, size - 8), -1):
            if _holds(text, place, 0, proof):
                return place
    return next(_latest(_SPACE, text, size), bound)


def _places(text: str, size: int, limit: int, edges: bool) -> Iterator[int]:
    """Places to try: up to `size` the latest first, white space before other changes; beyond `size` the earliest first."""
    if limit == size:
        found = islice(_latest(_SPACE, text, size), _TRIES)
        return chain(found, islice(_latest(_EDGE, text, size), _TRIES)) if edges else found
    change = _CHANGE if edges else _SPACE
    return islice((m.start() for m in change.finditer(text, size + 1, limit + 1)), _TRIES)


def _latest(pattern: re.Pattern[str], text: str, size: int) -> Iterator[int]:
    """Places from `size` down to 1 where a zero-width pattern matches."""
    end = min(size, len(text) - 1)
    while end > 0:
        begin = max(1, end - _STEP + 1)
        yield from reversed([m.start() for m in pattern.finditer(text, begin, end + 1)])
        end = begin - 1


def _begin(text: str, place: int) -> int:
    """The beginning of the text around a place."""
    for reach in (2 * CONTEXT, 16 * CONTEXT):
        found = _CHANGE.search(text, max(1, place - reach), max(1, place - CONTEXT + 1))
        if found:
            return found.start()
    return 0


def _holds(text: str, place: int, begin: int, encode: Callable[[str], list[int]]) -> bool:
    """Whether the text around a place gives the same ids as a whole and in two parts."""
    left, right = text[begin:place], text[place : place + CONTEXT]
    return encode(left + right) == encode(left) + encode(right)
