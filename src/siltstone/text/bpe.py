"""Byte-level BPE, through the `tokenizers` library: training, and reading any `tokenizer.json` of that kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers as hf

from ..errors import InputError, TokenizerError
from .files import find_files, read_blocks, split_text
from .tokenizer import json_fingerprint, utf8

SPECIALS = ("<bos>", "<eos>", "<pad>")
_BOS = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
_EOS = ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>")
_PAD = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>")


def _byte_letters() -> dict[str, int]:
    """The letters in which byte-level vocabularies write bytes: printable Latin-1 stands for itself, the rest from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(shown)]
    return {chr(b): b for b in shown} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


class BPETokenizer:
    """A byte-level BPE tokenizer, from the JSON text of the `tokenizers` library.

    Text that looks like a special (`<eos>`) is encoded as plain text; ids of specials stand for no bytes.
    Raises TokenizerError when the JSON is damaged or the tokenizer is of another kind.
    """

    def __init__(self, text: str) -> None:
        try:
            parsed = json.loads(text)
            inner = hf.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"the tokenizer's JSON cannot be read: {error}") from error
        if parsed.get("model", {}).get("type") != "BPE" or not _mentions(parsed.get("pre_tokenizer"), "ByteLevel"):
            raise TokenizerError(
                f"only byte-level BPE tokenizers can be used, and this one is {parsed.get('model', {}).get('type')} "
                f"with pre-tokenizer {_type(parsed.get('pre_tokenizer'))}; train one with bpe:8192, or use 'bytes'"
            )
        inner.encode_special_tokens = True
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self._text = text
        self._size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._fingerprint = json_fingerprint(text)
        self.bos_id = self._special(_BOS)
        self.eos_id = self._special(_EOS)
        self.pad_id = self._special(_PAD)

    def _special(self, names: Iterable[str]) -> int | None:
        return next((i for i in map(self._inner.token_to_id, names) if i is not None), None)

    @cached_property
    def _bytes(self) -> list[bytes]:
        letters = _byte_letters()
        added = self._inner.get_added_tokens_decoder()
        table = [b""] * self.vocab_size
        for token, i in self._inner.get_vocab(with_added_tokens=True).items():
            if i in added:
                table[i] = b"" if added[i].special else token.encode("utf-8")
            else:
                table[i] = bytes(letters[c] for c in token)
        return table

    @property
    def vocab_size(self) -> int:
        return self._size

    def encode(self, text: str) -> list[int]:
        utf8(text)
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        return [e.ids for e in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise InputError(f"id {token} is not in the tokenizer's vocabulary; ids are 0 to {self.vocab_size - 1}")
        return self._bytes[token]

    def to_json(self) -> str:
        return self._text

    @classmethod
    def from_json(cls, text: str) -> BPETokenizer:
        """The inverse of `to_json`. Raises TokenizerError."""
        return cls(text)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def __repr__(self) -> str:
        return f"BPETokenizer(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]})"


def _type(part: Any) -> str:
    return part.get("type", "none") if isinstance(part, dict) else "none"


def _mentions(part: Any, kind: str) -> bool:
    """Whether a (possibly nested) part of the pipeline is of the given kind."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_mentions(v, kind) for v in part.values())
    return isinstance(part, list) and any(_mentions(v, kind) for v in part)


def train_bpe(paths: Iterable[str | Path] | str | Path, vocab_size: int) -> BPETokenizer:
    """Trains a byte-level BPE on text files and folders; the same files give the same tokenizer.

    vocab_size   number of ids wanted, specials `<bos> <eos> <pad>` (ids 0, 1, 2) and the 256 bytes included;
                 a small text may give fewer
    Raises TokenizerError for a vocab_size below 259, DataError for files that are no text.
    """
    if not isinstance(vocab_size, int) or vocab_size < 256 + len(SPECIALS):
        raise TokenizerError(f"vocab_size={vocab_size!r} must be a whole number of at least {256 + len(SPECIALS)}")
    files = find_files([paths] if isinstance(paths, (str, Path)) else paths)
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner = hf.Tokenizer(hf.models.BPE())
    inner.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = hf.decoders.ByteLevel()

    def texts() -> Iterator[str]:
        for file in files:
            yield from split_text(read_blocks(file))

    inner.train_from_iterator(texts(), trainer)
    return BPETokenizer(inner.to_str())
