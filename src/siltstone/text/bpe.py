"""Byte-level BPE with the `tokenizers` library: training, and reading of any `tokenizer.json` of this kind."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import ClassVar, Self

import tokenizers as hf

from ..errors import InputError, TokenizerError
from .files import find_files, read_blocks, split_text
from .library import failure, quoted, read_json
from .pipeline import Pipeline, byte_letters
from .proof import prove
from .seams import joins
from .settings import ROLES, Settings
from .tokenizer import json_fingerprint, utf8

SPECIALS = ("<bos>", "<eos>", "<pad>")
_BOS = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
_EOS = ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>")
_PAD = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>")
_UNREAD = "the tokenizer's patterns cannot read this text, for example because of a run of millions of spaces"


class BPETokenizer:
    """A byte-level BPE tokenizer, from the JSON text of the `tokenizers` library.

    Text that looks like a special token (`<eos>`) is encoded as plain text; ids of special tokens represent no bytes. Special
    tokens are the added tokens with `special: true`. The constructor tests (docs/decisions/0018-tokenizers-are-proved.md) that
    the tokenizer is deterministic and keeps every text except for its `losses`. A UserWarning lists the losses, and the parts
    that were switched off.

    settings        the text of a `tokenizer_config.json` of transformers: names of special tokens, chat template
    losses          what encoding loses, in words; empty: nothing
    specials        special tokens: text -> id
    end_ids         further ids that end a text, besides `eos_id`
    chat_template   the Jinja template of a conversation; None: none
    joins           whether an added token contains a place where texts may be split, for example a token of several words
    Raises TokenizerError if the JSON is damaged or the tokenizer is of another kind.
    """

    _pipeline: ClassVar[type[Pipeline]] = Pipeline

    def __init__(self, text: str, settings: str = "") -> None:
        parsed, self.settings = read_json(text), Settings(settings)
        pipeline = self._pipeline(parsed, self.settings.specials.values())
        try:
            inner = hf.Tokenizer.from_str(json.dumps(parsed) if pipeline.changed else text)
            inner.encode_special_tokens = True
            inner.no_padding()
            inner.no_truncation()
        except BaseException as error:
            raise failure(error, "the tokenizer's JSON cannot be read") from None
        self._text, self._inner = text, inner
        self._fingerprint: str | None = None
        self.losses = tuple(pipeline.losses)
        self.joins = any(joins(token) for token in pipeline.added if token not in pipeline.specials)
        self._bytes = self._table(pipeline)
        said = self.settings.specials
        self.bos_id, self.eos_id, self.pad_id = (
            next((pipeline.specials[name] for name in names if name in pipeline.specials), None)
            for names in ([[said[role]] if role in said else [] for role in ROLES] if said else (_BOS, _EOS, _PAD))
        )
        self.specials, self.end_ids = pipeline.specials, self.settings.end_ids
        self.chat_template = self.settings.chat_template
        self._prove(pipeline)
        for words in (
            f"the tokenizer loses text: {'; '.join(self.losses)}" if self.losses else "",
            f"the tokenizer is used without {' and '.join(pipeline.off)}" if pipeline.off else "",
        ):
            if words:
                warnings.warn(words, stacklevel=2)

    def _table(self, pipeline: Pipeline) -> list[bytes]:
        """The bytes of each id. Raises TokenizerError if the library and the JSON give an added token different ids."""
        vocab, specials, added = self._inner.get_vocab(with_added_tokens=True), pipeline.specials, pipeline.added
        for token, i in added.items():
            if vocab.get(token) != i:
                raise TokenizerError(
                    f"added token {quoted(token, 40)} has the id {i}, and the library gives it {vocab.get(token)}: "
                    "ids of model.vocab must leave no gaps; take an intact tokenizer.json"
                )
        table = [b""] * (max(vocab.values(), default=-1) + 1)
        for token, i in vocab.items():
            if token in added:
                table[i] = b"" if token in specials else token.encode("utf-8")
                continue
            spelt = pipeline.spelling(token)
            table[i] = token.encode("utf-8") if spelt is None else spelt  # the library's decoder does the same
        return table

    def _prove(self, pipeline: Pipeline) -> None:
        normal, lost = self._inner.normalizer, pipeline.lost
        own = list(pipeline.added)
        letters = byte_letters()
        spelt = (bytes(letters[c] for c in name) for name in own if all(c in letters for c in name))
        own += [text.decode("utf-8", "replace") for text in spelt]

        def read(text: str) -> bytes:
            return (normal.normalize_str(text) if normal is not None else text).encode("utf-8").translate(None, lost)

        prove(self.encode, self.encode_many, self._bytes, read, own, frozenset(pipeline.specials.values()))

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        return self._encoding(text).ids

    def _encoding(self, text: str) -> hf.Encoding:
        utf8(text)
        try:
            return self._inner.encode(text, add_special_tokens=False)
        except BaseException as error:
            raise failure(error, _UNREAD) from None

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        for text in texts:
            utf8(text)
        try:
            return [e.ids for e in self._inner.encode_batch_fast(texts, add_special_tokens=False)]
        except BaseException as error:
            raise failure(error, _UNREAD) from None

    def encode_sized(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and the number of bytes of the text that each id represents. The sum is the bytes of the text, with losses.

        Lost bytes are counted for the id before them, and a character that several ids share for the last of these.
        """
        found = self._encoding(text)
        if not self.losses:
            return found.ids, [len(self._bytes[i]) for i in found.ids]
        begins = accumulate([0, *(begin for begin, _ in found.offsets[1:]), len(text)], max)
        return found.ids, [len(text[a:b].encode("utf-8")) for a, b in pairwise(begins)][: len(found.ids)]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise InputError(f"id {token} is not in the tokenizer's vocabulary; ids are 0 to {self.vocab_size - 1}")
        return self._bytes[token]

    def to_json(self) -> str:
        return self._text

    def settings_json(self) -> str:
        """The settings as one JSON text: the content of `tokenizer_config.json`; "" if there are none."""
        return self.settings.text

    @classmethod
    def from_json(cls, text: str, settings: str = "") -> Self:
        """The inverse of `to_json` and `settings_json`. Raises TokenizerError."""
        return cls(text, settings)

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = json_fingerprint(self._text)
        return self._fingerprint

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]})"


def train_bpe(paths: Iterable[str | Path] | str | Path, vocab_size: int) -> BPETokenizer:
    """Trains a byte-level BPE on text files and folders; the same files give the same tokenizer.

    vocab_size   number of ids, including the special tokens `<bos> <eos> <pad>` (ids 0, 1, 2) and the 256 bytes;
                 a small text may give fewer
    Raises TokenizerError for a vocab_size below 259, DataError for files that are not text.
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
