"""Text: tokenizers, reading of text files, decoding of token streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cuts import cut_table
from .files import find_files, read_blocks, split_text
from .load import load_tokenizer, tokenizer_from_json
from .tokenizer import ByteTokenizer, StreamDecoder, Tokenizer, encode_sized, losses

if TYPE_CHECKING:  # imported on first use: the tokenizers library is slow to load
    from .bpe import BPETokenizer, train_bpe

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "cut_table",
    "encode_sized",
    "find_files",
    "load_tokenizer",
    "losses",
    "read_blocks",
    "split_text",
    "tokenizer_from_json",
    "train_bpe",
]


def __getattr__(name: str) -> object:
    if name in ("train_bpe", "BPETokenizer"):
        from . import bpe

        return getattr(bpe, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
