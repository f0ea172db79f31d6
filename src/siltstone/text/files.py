"""Text files: finds them, and reads them in blocks with a check that they are text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError
from .seams import CONTEXT, seam
from .tokenizer import Tokenizer

SUFFIXES = (".txt", ".text", ".md", ".rst", ".log")
BLOCK = 1 << 20


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """The text files in `paths`: each file, and for each folder the text files in it and its subfolders, sorted by name.

    In folders, only files with the suffixes in `SUFFIXES` are taken, and no hidden ones; a file named twice is taken once.
    Raises DataError if a path does not exist or a folder has no text file.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_file():
            found[path] = None
        elif path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
            inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            if not inside:
                raise DataError(f"{path} has no text file ({', '.join(SUFFIXES)}); name files with other suffixes one by one")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            raise DataError(f"{path} is neither a file nor a folder; use '-' to read standard input")
        else:
            raise DataError(f"{path} does not exist; give text files, folders, or '-' for standard input")
    return list(found)


def read_blocks(source: str | Path | BinaryIO, name: str | None = None, block: int = BLOCK) -> Iterator[str]:
    """The exact text of a file or of an open binary stream, in pieces of about `block` bytes.

    Raises DataError for an empty source, for a zero byte (binary data) and for invalid UTF-8, with the byte's offset.
    """
    if isinstance(source, (str, Path)):
        try:
            with open(source, "rb") as file:
                yield from read_blocks(file, name or str(source), block)
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error.strerror or error}") from error
        return
    name = name or "the input"
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset = 0
    while data := source.read(block):
        zero = data.find(b"\0")
        if zero >= 0:
            raise DataError(f"{name} is binary, not text: byte {offset + zero} is zero; give UTF-8 text")
        yield _decode(decoder, data, offset, name)
        offset += len(data)
    if offset == 0:
        raise DataError(f"{name} is empty; give a file with some text")
    _decode(decoder, b"", offset, name, final=True)


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, offset: int, name: str, final: bool = False) -> str:
    held = len(decoder.getstate()[0])
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        at = offset - held + error.start
        raise DataError(f"{name} is not valid UTF-8 at byte {at} ({error.reason}); convert it to UTF-8 first") from error


def split_text(blocks: Iterable[str], size: int = 1 << 16, tokenizer: Tokenizer | None = None) -> Iterator[str]:
    """The same text in pieces of at most `size` characters that can be tokenized one by one: the ids are those of the whole text.

    tokenizer   proves each split (`seams.seam`). None: pieces end between a character that is not white space and a space, tab
                or line end; the pre-tokenizer of `train_bpe` always splits there
    If `size` characters have no such place, the piece is longer; after `2 * size` characters it is split anywhere.
    The pieces do not depend on the blocks. Raises the errors of the tokenizer for the text.
    """
    held, most = "", 2 * size + CONTEXT
    for block in chain(blocks, [None]):
        held += block or ""
        at = 0
        while end := seam(held[at : at + most], size, 2 * size, tokenizer, block is None and len(held) - at <= most):
            yield held[at : at + end]
            at += end
        held = held[at:]
