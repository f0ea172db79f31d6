"""The way into the `tokenizers` library for text that nobody has looked at: its failures become errors of this package."""

from __future__ import annotations

from typing import Any

from ..errors import TokenizerError
from ..io.parse import parse_object

LARGEST = 64 << 20  # characters, or bytes, of a tokenizer.json


def quoted(text: object, length: int = 200) -> str:
    """Foreign text for a message: in quotes, at most about `length` characters, nothing that would command a terminal."""
    text = str(text)
    return ascii(text if len(text) <= length else text[: length - 1] + "…")[: 2 * length]


def failure(error: BaseException, words: str) -> TokenizerError:
    """The library's error, told as ours. Raises KeyboardInterrupt, SystemExit and the like again.

    The library raises plain Exception, and a panic, which is no Exception, where its own code fails.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return TokenizerError(f"{words}: {quoted(error)}")


def read_json(text: str) -> dict[str, Any]:
    """A tokenizer's JSON. Raises TokenizerError for text that is too long, too deep, no JSON object, or names a key twice."""
    if len(text) > LARGEST:
        raise TokenizerError(f"the tokenizer's JSON has {len(text):,} characters, and {LARGEST:,} are the most")
    try:
        return parse_object(text)
    except (ValueError, MemoryError) as error:
        raise TokenizerError(f"the tokenizer's JSON cannot be read: {quoted(error)}") from None
