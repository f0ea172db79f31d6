"""Calls of the `tokenizers` library with untrusted input: its failures become errors of this package."""

from __future__ import annotations

from typing import Any

from ..errors import TokenizerError
from ..io.parse import parse_object

LARGEST = 64 << 20  # maximum characters, or bytes, of a tokenizer.json


def quoted(text: object, length: int = 200) -> str:
    """Foreign text for a message: in quotes, at most about `length` characters, with control characters escaped."""
    text = str(text)
    return ascii(text if len(text) <= length else text[: length - 1] + "…")[: 2 * length]


def failure(error: BaseException, words: str) -> TokenizerError:
    """The library's error as a TokenizerError. KeyboardInterrupt, SystemExit and similar ones are raised again.

    The library raises plain Exception, or, for faults in its own code, PanicException, which is not a subclass of Exception.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return TokenizerError(f"{words}: {quoted(error)}")


def read_json(text: str) -> dict[str, Any]:
    """A tokenizer's JSON. Raises TokenizerError if it is too long, nested too deeply, not a JSON object, or has a key twice."""
    if len(text) > LARGEST:
        raise TokenizerError(f"the tokenizer's JSON has {len(text):,} characters; at most {LARGEST:,} are allowed")
    try:
        return parse_object(text)
    except (ValueError, MemoryError) as error:
        raise TokenizerError(f"the tokenizer's JSON cannot be read: {quoted(error)}") from None
