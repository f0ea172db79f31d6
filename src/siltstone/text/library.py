"""The way into the `tokenizers` library for text that nobody has looked at: its failures become errors of this package."""

from __future__ import annotations

import json
from typing import Any

from ..errors import TokenizerError

LARGEST = 64 << 20  # characters, or bytes, of a tokenizer.json


def plain(text: object, length: int = 200) -> str:
    """Foreign text for a message: in quotes, at most about `length` characters, nothing that would command a terminal."""
    text = str(text)
    return ascii(text if len(text) <= length else text[: length - 1] + "…")[: 2 * length]


def failure(error: BaseException, words: str) -> TokenizerError:
    """The library's error, told as ours. Raises KeyboardInterrupt, SystemExit and the like again.

    The library raises plain Exception, and a panic, which is no Exception, where its own code fails.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return TokenizerError(f"{words}: {plain(error)}")


def read_json(text: str) -> dict[str, Any]:
    """A tokenizer's JSON. Raises TokenizerError for text that is too long, too deep, no JSON object, or names a key twice."""
    if len(text) > LARGEST:
        raise TokenizerError(f"the tokenizer's JSON has {len(text):,} characters, and {LARGEST:,} are the most")
    try:
        found = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError, MemoryError) as error:
        raise TokenizerError(f"the tokenizer's JSON cannot be read: {plain(error)}") from None
    if not isinstance(found, dict):
        raise TokenizerError(f"a tokenizer's JSON must be an object, and this is a {type(found).__name__}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {plain(twice, 40)} appears twice")
    return found
