"""Bytes of any length, cut into pieces that can be tokenized one by one, the same whatever the reads brought.

A piece has at most 2,048 bytes. It ends where a character that is no white space meets a space, tab or line end, for
there every usual byte-level pre-tokenizer cuts anyway: the tokens are those of the whole text. A stretch of 2,048 bytes
without such a place is cut anywhere between two characters. By lines, a piece also ends behind every line end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

PIECE = 2048
BLOCK = 1 << 16
_WHITE = b" \t\n\r"


def pieces(source: Any, lines: bool = False, waiting: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[bytes]:
    """The pieces of an open binary file with `read1` (or `read`), none of them empty; by lines if `lines`.

    waiting   entered round every read, which may block
    """
    read = source.read1 if hasattr(source, "read1") else source.read
    held, ended = bytearray(), False
    while True:
        end = _end(held, lines, ended)
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


def _end(held: bytearray, lines: bool, ended: bool) -> int:
    """Where the first piece ends; 0 if that is not known yet (or nothing is held)."""
    if lines and (line := held.find(b"\n", 0, PIECE)) >= 0:
        return line + 1
    if len(held) <= PIECE:
        return len(held) if ended else 0
    for i in range(PIECE, 0, -1):
        if held[i] in _WHITE and not _white_before(held, i):
            return i
    inside = next((i for i in range(PIECE, PIECE - 4, -1) if held[i] & 0xC0 != 0x80), PIECE)
    return inside


def _white_before(held: bytearray, i: int) -> bool:
    """Whether the character that ends before byte i is white space, in any script."""
    if held[i - 1] < 0x80:
        return chr(held[i - 1]).isspace()
    return held[max(0, i - 4) : i].decode("utf-8", "ignore")[-1:].isspace()
