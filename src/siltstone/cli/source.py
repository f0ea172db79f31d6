"""The input of `siltstone stream`: a file or standard input, from the byte at which its session stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from siltstone.core.interrupt import Interrupts
    from siltstone.inference.reader import Reader


def opened(file: str, stop: Interrupts) -> Any:
    """The input as an open binary file. Raises DataError."""
    from contextlib import nullcontext

    from siltstone.errors import DataError

    if file == "-":
        return nullcontext(typer.get_binary_stream("stdin"))
    try:
        with stop.waiting():  # opening a pipe blocks until a writer opens it
            return open(file, "rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; give a text file, or - for standard input") from None


def place(reader: Reader, source: Any, file: str, offset: int | None, stop: Interrupts, name: str = "") -> int | None:
    """Set input and reader to the same byte. Returns the size of the input in bytes, or None if it is not known. name: of the
    input, for the message that it is resumed."""
    from siltstone.core.terminal import say
    from siltstone.errors import DataError

    known = reader.offset
    whole = file != "-" and source.seekable()
    if whole:
        size = source.seek(0, 2)
        reader.begin(known if offset is None else offset)
        if reader.offset > size:
            raise DataError(
                f"{file} has {size:,} bytes, and the next byte to read is {reader.offset:,}; give the same file, or --offset 0"
            )
        reader.check(source, file)
    else:
        size = None
        if offset is not None:
            reader.begin(offset)
            left = offset
            while left:
                with stop.waiting():
                    skipped = len(source.read(min(left, 1 << 20)))
                if not skipped:
                    raise DataError(f"standard input ended {left:,} bytes before --offset {offset:,}")
                left -= skipped
    if reader.session.position:
        where = "" if whole or offset is not None else f"; standard input must start there (--offset {known} skips to it)"
        say(f"{name}{reader.session.position:,} tokens restored; resuming at byte {reader.offset:,}{where}")
    return size
