"""Splits a stream of bytes into pieces that can be tokenized one by one; the pieces do not depend on the sizes of the reads.

A piece has about 2,048 bytes at most. It ends at a place where the tokenizer proves that the ids are those of the whole text
(`siltstone.text.seams`). If 2,048 bytes have no such place, the piece is longer; after 16,384 bytes it ends between any two
characters. By lines, a piece also ends after every line end: the ids are then those of each line by itself, also if a token of
the whole text would contain a line end and the characters after it.
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
_INVALID = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8


def pieces(
    source: Any,
    lines: bool = False,
    waiting: Callable[[], AbstractContextManager[Any]] = nullcontext,
    tokenizer: Tokenizer | None = None,
    size: int = PIECE,
) -> Iterator[bytes]:
    """The pieces of an open binary file with `read1` (or `read`), each of at least one byte; by lines if `lines`.

    waiting     a context manager round every read; a read may block
    tokenizer   proves each place where a piece ends. None, or the byte tokenizer: pieces have at most `size` bytes, and end
                between a character that is not white space and a space, tab or line end
    size        maximum bytes of a piece that ends at a proved place; any other piece has at most 8 times as many
    Raises the errors of the tokenizer for the text.
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
    """The end of the first piece in bytes; 0 if it is not known yet (or nothing is held)."""
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
    """The characters of some bytes. An invalid byte is one character; an incomplete character at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(bytes(data), ended)


def _count(held: bytearray, size: int) -> int:
    """Number of whole characters in the first `size` bytes, at least 1."""
    return max(1, len(_text(held[:size], len(held) <= size)))
