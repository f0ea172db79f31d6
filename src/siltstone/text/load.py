"""Loads a tokenizer by its name or from a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import TokenizerError
from ..io.regular import is_folder, read_limited, reason
from .library import LARGEST, quoted, read_json
from .tokenizer import ByteTokenizer, Tokenizer


def tokenizer_from_json(text: str, settings: str = "") -> Tokenizer:
    """The tokenizer with `to_json()` = `text` and `settings_json()` = `settings`. Raises TokenizerError if it cannot be read."""
    found = read_json(text)
    if found.get("type") == "siltstone-bytes":
        return ByteTokenizer.from_json(text)
    from .bpe import BPETokenizer
    from .pieces import PieceTokenizer, made_of_pieces

    return (PieceTokenizer if made_of_pieces(found) else BPETokenizer).from_json(text, settings)


def load_tokenizer(spec: str | Path, paths: Iterable[str | Path] = ()) -> Tokenizer:
    """A tokenizer by name: `bytes`, `bpe:8192` (trained on the text of `paths`), or a `tokenizer.json`, or a folder with one.

    Raises TokenizerError for an unknown name or an unusable file, DataError if `paths` are not text.
    """
    name = str(spec)
    if name == "bytes":
        return ByteTokenizer()
    if name.startswith("bpe:"):
        size = name.removeprefix("bpe:")
        least = ByteTokenizer().vocab_size  # the bytes and the specials
        if not size.isdecimal() or int(size[:20]) < least:
            raise TokenizerError(
                f"--tokenizer {name} needs a number of ids of at least {least} (256 bytes and {least - 256} special tokens); "
                "write for example --tokenizer bpe:8192"
            )
        paths = list(paths)
        if not paths:
            raise TokenizerError(f"tokenizer {name!r} is trained on text, and no text was given; name some files")
        from .bpe import train_bpe

        return train_bpe(paths, int(size))
    path = Path(name)
    if is_folder(path):
        path = path / "tokenizer.json"
    try:
        text = read_limited(path, LARGEST).decode("utf-8")
    except FileNotFoundError as error:
        raise TokenizerError(f"tokenizer {name!r} is not known; choose 'bytes', 'bpe:8192', or a tokenizer.json file") from error
    except (OSError, ValueError) as error:
        raise TokenizerError(f"tokenizer file {path} cannot be read: {quoted(reason(error))}") from error
    return tokenizer_from_json(text)
