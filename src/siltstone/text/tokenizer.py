"""The protocol of a tokenizer, the byte tokenizer, and decoding of token streams.

Tokenizers here are byte-level: each id represents some bytes, and the text is the joined bytes decoded as UTF-8. Streaming
therefore needs only an incremental UTF-8 decoder, and bits per byte can be computed for any piece of a text.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from ..errors import InputError, TokenizerError
from .library import quoted, read_json


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    vocab_size   number of ids
    bos_id, eos_id, pad_id   ids of the special tokens (begin, end, padding), None if missing; they represent no bytes

    Some members are optional. `losses: tuple[str, ...]` says in words what encoding loses, for example capital letters; if it is
    absent or empty, the bytes of a text's ids are the text. A tokenizer with losses also has the method
    `encode_sized(text) -> (ids, sizes)`, which counts bytes of the original text (see the function `encode_sized`).
    `end_ids: tuple[int, ...]` are further ids that end a text. `settings_json() -> str` is the content of
    `tokenizer_config.json`, and `chat_template: str | None` the template in it.
    """

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens. Raises InputError for text that UTF-8 cannot encode (lone surrogates)."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, without special tokens; invalid UTF-8 becomes U+FFFD. Raises InputError for unknown ids."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id. Raises InputError for an unknown id."""
        ...

    def to_json(self) -> str:
        """The whole tokenizer as one JSON text: the content of `tokenizer.json`."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `to_json()` with sorted keys and no spaces, in hexadecimal."""
        ...


def json_fingerprint(text: str) -> str:
    """SHA-256 of a JSON text, independent of its spacing and the order of its keys."""
    sorted_text = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(sorted_text.encode("ascii")).hexdigest()


def utf8(text: str) -> bytes:
    """`text` in UTF-8; raises InputError if it cannot be encoded."""
    if not isinstance(text, str):
        raise InputError(f"text must be a str, and {type(text).__name__} was given; give text, or pass ids as ids")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text cannot be encoded in UTF-8 at character {error.start} (a lone surrogate); replace or remove it"
        ) from error


def losses(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The declared losses of a tokenizer; empty: none."""
    return tuple(getattr(tokenizer, "losses", ()))


def encode_sized(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Ids of `text`, and the number of bytes of the text that each represents; the sum is the bytes of the text.

    Raises InputError for text that UTF-8 cannot encode, and TokenizerError for a tokenizer with losses but without
    `encode_sized`.
    """
    lost = losses(tokenizer)
    if not lost:
        ids = tokenizer.encode(text)
        return ids, [len(tokenizer.token_bytes(i)) for i in ids]
    sized = getattr(tokenizer, "encode_sized", None)
    if sized is None:
        raise TokenizerError(
            f"{type(tokenizer).__name__} has losses ({quoted('; '.join(lost), 80)}) and no method encode_sized(text), "
            "so that bytes cannot be counted; add one that returns ids and the number of bytes of the text of each id"
        )
    return sized(text)


class ByteTokenizer:
    """Ids 0 to 255 are the bytes themselves; 256 begins a text, 257 ends one, 258 is padding."""

    bos_id: int | None = 256
    eos_id: int | None = 257
    pad_id: int | None = 258
    losses: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        return 259

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < 259:
            raise InputError(f"id {token} is not in the byte tokenizer's vocabulary; ids are 0 to 258")
        return bytes([token]) if token < 256 else b""

    def to_json(self) -> str:
        return json.dumps({"type": "siltstone-bytes", "version": 1, "vocab_size": 259, "bos": 256, "eos": 257, "pad": 258})

    @classmethod
    def from_json(cls, text: str) -> ByteTokenizer:
        """The inverse of `to_json`. Raises TokenizerError for another tokenizer's JSON or a newer version."""
        if read_json(text) != json.loads(cls().to_json()):
            raise TokenizerError(f"this is not the byte tokenizer of this version: {quoted(text, 120)}")
        return cls()

    @property
    def fingerprint(self) -> str:
        return json_fingerprint(self.to_json())

    def __repr__(self) -> str:
        return "ByteTokenizer()"


class StreamDecoder:
    """Incremental decoding of ids to text: an incomplete character is held back.

    The joined pieces, including that of `finish`, equal `tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def pending(self) -> bytes:
        """The bytes of an incomplete character (at most 3)."""
        return self._decoder.getstate()[0]

    def push(self, ids: int | Sequence[int]) -> str:
        """The text that is complete after `ids`. Raises InputError for unknown ids; then the decoder does not change."""
        ids = [ids] if isinstance(ids, int) else ids
        return self._decoder.decode(b"".join(map(self._tokenizer.token_bytes, ids)))

    def finish(self) -> str:
        """The incomplete character as U+FFFD; the decoder is reset afterwards."""
        text = self._decoder.decode(b"", True)
        self._decoder.reset()
        return text

    def copy(self) -> StreamDecoder:
        """An independent decoder with the same state."""
        return StreamDecoder(self._tokenizer).resume(self.pending)

    def resume(self, pending: bytes) -> StreamDecoder:
        """Sets the decoder to the state after `pending` bytes of a character, and returns it."""
        self._decoder.setstate((bytes(pending), 0))
        return self
