"""Bytes of any length, cut into pieces that can be tokenized one by one, the same whatever the reads brought.

A piece has about 2,048 bytes at most, and ends where the tokenizer proves that the ids are those of the whole text
(`siltstone.text.seams`). A stretch of 2,048 bytes without such a place gives a longer piece, and is cut anywhere between two
characters after 16,384 bytes. By lines, a piece also ends behind every line end: the ids are those of each line by itself,
even where a token of the whole text would hold a line end and what follows it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..text.seams import CONTEXT, proves, seam
from ..text.tokenizer import Tokenizer

PIECE, LONGEST = 2048, 16384
BLOCK = 1 << 16
_INVALID = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8


def pieces(
    source: Any,
    lines: bool = False,
    waiting: Callable[[], AbstractContextManager[Any]] = nullcontext,
    tokenizer: Tokenizer | None = None,
    size: int = PIECE,
) -> Iterator[bytes]:
    """The pieces of an open binary file with `read1` (or `read`), none of them empty; by lines if `lines`.

    waiting     entered round every read, which may block
    tokenizer   what proves each cut. None, or the byte tokenizer: pieces have at most `size` bytes, and end where a character
                that is no white space meets a space, tab or line end
    size        bytes of a piece where a cut is proved; 8 times as many at most
    Raises what the tokenizer raises for the text.
    """
    read = source.read1 if hasattr(source, "read1") else source.read
    longest = size * (LONGEST // PIECE) if proves(tokenizer) else size
    held, ended = bytearray(), False
    while True:
        end = _end(held, size, longest, lines, ended, tokenizer)
        if end:
            yield bytes(held[:end])
            del held[:end]
        elif ended:
            return
        else:
            with waiting():
                block = read(BLOCK)
            held += block
            ended = not block


def _end(held: bytearray, size: int, longest: int, lines: bool, ended: bool, tokenizer: Tokenizer | None) -> int:
    """Where the first piece ends; 0 if that is not known yet (or nothing is held)."""
    most = longest + 4 * (CONTEXT + 2)  # bytes: CONTEXT characters behind the longest piece, whole ones
    line = held.find(b"\n", 0, most) + 1 if lines else 0
    if 0 < line <= size:
        return line
    if not line and not ended and len(held) <= size:
        return 0
    ended = bool(line) or ended and len(held) <= most
    text = _text(held[: line or most], ended)
    end = seam(_INVALID.sub("\ufffd", text), _count(held, size), _count(held, longest), tokenizer, ended)
    return len(text[:end].encode("utf-8", "surrogateescape"))


def _text(data: bytearray, ended: bool) -> str:
    """The characters of some bytes; a byte that is no UTF-8 is one, and what may be the begin of one at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(bytes(data), ended)


def _count(held: bytearray, size: int) -> int:
    """Whole characters of the first `size` bytes, one at least."""
    return max(1, len(_text(held[:size], len(held) <= size)))
