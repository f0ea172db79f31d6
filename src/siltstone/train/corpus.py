"""Tokenized text on the disk: one flat memory-mapped file of ids, and a list of where each document lies in it."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import CheckpointError, DataError, FormatWarning
from ..io import atomic_file, read_checked, write_checked
from ..io.atomic import make_folder
from ..io.parse import is_count
from ..io.regular import reason
from ..text import Tokenizer, find_files, read_blocks, split_text


@dataclass(frozen=True)
class Document:
    """One document: `tokens` ids of text from `start` in the flat file (an end-of-text id follows where there is one)."""

    name: str
    sha256: str
    bytes: int
    start: int
    tokens: int


class Corpus:
    """Documents as ids.

    ids         [N] memory-mapped, uint16 or uint32
    documents   in the order of the file
    sizes       [vocab_size] uint8 or wider: bytes that each id stands for
    key         hash of the texts and the tokenizer
    tokenizer   what the ids are ids of

    Raises CheckpointError when one of its two files is gone, damaged, or of another text or tokenizer.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, key: str) -> None:
        self.key = key
        self.ids, self.documents = _opened(path, tokenizer, key)
        self.sizes = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], np.int64)
        self.tokenizer = tokenizer
        self.ends = tokenizer.eos_id is not None

    @property
    def bytes(self) -> int:
        """Bytes of text."""
        return sum(d.bytes for d in self.documents)

    @property
    def tokens(self) -> int:
        """Ids of text."""
        return sum(d.tokens for d in self.documents)

    def document(self, index: int, most: int | None = None) -> np.ndarray:
        """The first `most` ids of a document (default: all), int64."""
        d = self.documents[index]
        return self.ids[d.start : d.start + min(d.tokens, most or d.tokens)].astype(np.int64)

    def parts(self, longest: int) -> np.ndarray:
        """All documents in parts of at most `longest` inputs: int64 [U, 3], begin and end of a part's inputs in the flat
        file, and the end of its document's.

        Input i predicts id i + 1, so a document's last id is no input (the end-of-text id, where there is one).
        """
        found = []
        for d in self.documents:
            inputs = d.tokens - (0 if self.ends else 1)
            found += [(d.start + a, d.start + min(a + longest, inputs), d.start + inputs) for a in range(0, inputs, longest)]
        if not found:
            raise DataError("the training text has no two tokens in a row; give more text")
        return np.array(found, np.int64)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises DataError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def hashed_files(paths: Iterable[str | Path], besides: set[str] | None = None) -> list[tuple[Path, str]]:
    """The text files that `paths` name with their hashes, without those whose hash is among `besides`.

    Raises DataError when nothing is left.
    """
    found = [(path, hash_file(path)) for path in find_files(paths)]
    left = [(path, digest) for path, digest in found if digest not in (besides or set())]
    if found and not left:
        raise DataError("every training file is also held out for validation; give other files to one of the two")
    return left


def corpus_key(files: Sequence[tuple[Path, str]], tokenizer: Tokenizer) -> str:
    """A hash of the tokenizer, and of the texts in their order."""
    return hashlib.sha256("\n".join([tokenizer.fingerprint, *(digest for _, digest in files)]).encode()).hexdigest()


def build_corpus(files: Sequence[tuple[Path, str]], tokenizer: Tokenizer, folder: Path) -> Corpus:
    """Tokenizes the files once; the same files and tokenizer find the work done in `folder`.

    Raises DataError for text that is empty, binary or not UTF-8, StorageError where the system refuses.
    """
    key = corpus_key(files, tokenizer)
    path = make_folder(folder) / f"{key[:16]}.bin"
    with contextlib.suppress(CheckpointError):  # gone or damaged: it is made again
        return Corpus(path, tokenizer, key)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    documents: list[Document] = []
    at, total = 0, hashlib.sha256()
    with atomic_file(path) as out:

        def write(ids: list[int]) -> None:
            data = np.asarray(ids, dtype).tobytes()
            total.update(data)
            out.write(data)

        for file, digest in files:
            start, count, size = at, 0, 0
            for pieces in _groups(split_text(read_blocks(file), tokenizer=tokenizer), 16):
                size += sum(len(p.encode("utf-8")) for p in pieces)
                for ids in _encode(tokenizer, pieces):
                    write(ids)
                    count += len(ids)
            if tokenizer.eos_id is not None:
                write([tokenizer.eos_id])
            documents.append(Document(file.name, digest, size, start, count))
            at = start + count + (tokenizer.eos_id is not None)
    listed = [asdict(d) for d in documents]
    index = {"key": key, "dtype": dtype, "ids_sha256": total.hexdigest(), "documents": listed}
    write_checked(path.with_suffix(".json"), index)
    return Corpus(path, tokenizer, key)


def open_corpus(key: str, tokenizer: Tokenizer, folder: Path) -> Corpus:
    """The corpus that an earlier `build_corpus` left in `folder`. Raises DataError when it is gone, else CheckpointError."""
    path = folder / f"{key[:16]}.bin"
    if not path.exists() or not path.with_suffix(".json").exists():
        raise DataError(f"the tokenized text {path} is gone; name the same text files again")
    return Corpus(path, tokenizer, key)


def _opened(path: Path, tokenizer: Tokenizer, key: str) -> tuple[np.ndarray, list[Document]]:
    """Ids and documents, every byte of them proven; files of early versions, which have no checksums, as far as they can be."""
    index = path.with_suffix(".json")
    try:
        found, sealed = read_checked(index)
        if found.get("key") != key:
            raise ValueError("it is of another text or tokenizer")
        if found.get("dtype") not in ("<u2", "<u4"):
            raise ValueError("it names no type of ids")
        documents = [Document(**d) for d in found["documents"]]
        ids = np.memmap(path, dtype=found["dtype"], mode="r")
        end = tokenizer.eos_id is not None
        at = 0
        for d in documents:
            if not all(map(is_count, (d.bytes, d.start, d.tokens))) or d.start != at:
                raise ValueError(f"its document {str(d.name)[:80]!r} lies nowhere")
            at += d.tokens + end
        if at != len(ids) or hash_file(path) != found.get("ids_sha256", "" if sealed else hash_file(path)):
            raise ValueError("the ids beside it were altered or cut off")
        if not len(ids) or int(ids.max()) >= tokenizer.vocab_size:
            raise ValueError("the ids beside it are not this tokenizer's")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the tokenized text {index} cannot be used: {reason(error)[:300]}; name the same text files again"
        ) from error
    if not sealed:
        warnings.warn(f"{index} was written by an early version, without a checksum", FormatWarning, stacklevel=4)
    return ids, documents


def _encode(tokenizer: Tokenizer, pieces: list[str]) -> list[list[int]]:
    many = getattr(tokenizer, "encode_many", None)
    return many(pieces) if many else [tokenizer.encode(p) for p in pieces]


def _groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    source = iter(items)
    while group := list(islice(source, size)):
        yield group
