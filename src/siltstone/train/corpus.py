"""Tokenized text on disk: one flat memory-mapped file of ids, and a list with the place of each document in it."""

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
from ..text import Tokenizer, encode_sized, find_files, losses, read_blocks, split_text

SIZES = ".sizes"  # suffix of the file with the bytes of text of each id, for tokenizers that lose text


@dataclass(frozen=True)
class Document:
    """One document: `tokens` ids of text from `start` in the flat file; an end-of-text id follows if the tokenizer has one."""

    name: str
    sha256: str
    bytes: int
    start: int
    tokens: int


class Corpus:
    """Documents as ids.

    ids         [N] memory-mapped, uint16 or uint32
    documents   in the order of the file
    sizes       [vocab_size] bytes of text of each id of the vocabulary; for a tokenizer that loses text, [N] bytes of text of
                each id of the corpus
    key         hash of the texts and the tokenizer
    tokenizer   the tokenizer of the ids

    Raises CheckpointError if one of its files is missing, damaged, or belongs to another text or tokenizer.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, key: str) -> None:
        self.key = key
        self.ids, self.documents = _opened(path, tokenizer, key)
        self._counted = bool(losses(tokenizer))
        self.sizes: np.ndarray = (
            np.memmap(path.with_suffix(SIZES), dtype="<u2", mode="r")
            if self._counted
            else np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], np.int64)
        )
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

    def bytes_of(self, begin: int, end: int) -> int:
        """Bytes of text that ids [begin, end) of the flat file represent."""
        return int((self.sizes[begin:end] if self._counted else self.sizes[self.ids[begin:end]]).sum(dtype=np.int64))

    def document(self, index: int, most: int | None = None) -> np.ndarray:
        """The first `most` ids of a document (default: all), int64."""
        d = self.documents[index]
        return self.ids[d.start : d.start + min(d.tokens, most or d.tokens)].astype(np.int64)

    def parts(self, longest: int) -> np.ndarray:
        """All documents, split into parts of at most `longest` inputs: int64 [U, 3], begin and end of a part's inputs in the
        flat file, and the end of the inputs of its document.

        Input i predicts id i + 1, so that a document's last id (the end-of-text id if there is one) is not an input.
        """
        found = []
        for d in self.documents:
            inputs = d.tokens - (0 if self.ends else 1)
            found += [(d.start + a, d.start + min(a + longest, inputs), d.start + inputs) for a in range(0, inputs, longest)]
        if not found:
            raise DataError("no document of the training text has two tokens; give more text")
        return np.array(found, np.int64)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises DataError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def hashed_files(paths: Iterable[str | Path], besides: set[str] | None = None) -> list[tuple[Path, str]]:
    """The text files in `paths` with their hashes, without those whose hash is in `besides`.

    Raises DataError if no file is left.
    """
    found = [(path, hash_file(path)) for path in find_files(paths)]
    left = [(path, digest) for path, digest in found if digest not in (besides or set())]
    if found and not left:
        raise DataError("every training file is also held out for validation; give different files for one of the two")
    return left


def corpus_key(files: Sequence[tuple[Path, str]], tokenizer: Tokenizer) -> str:
    """A hash of the tokenizer, and of the texts in their order."""
    return hashlib.sha256("\n".join([tokenizer.fingerprint, *(digest for _, digest in files)]).encode()).hexdigest()


def build_corpus(files: Sequence[tuple[Path, str]], tokenizer: Tokenizer, folder: Path) -> Corpus:
    """Tokenizes the files into `folder`, or opens the result that is there for the same files and tokenizer.

    Raises DataError for text that is empty, binary or not UTF-8, StorageError if writing fails.
    """
    key = corpus_key(files, tokenizer)
    path = make_folder(folder) / f"{key[:16]}.bin"
    with contextlib.suppress(CheckpointError):  # missing or damaged: it is made again
        return Corpus(path, tokenizer, key)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    documents: list[Document] = []
    at, total, counting = 0, hashlib.sha256(), bool(losses(tokenizer))
    with contextlib.ExitStack() as files_:
        out = files_.enter_context(atomic_file(path))
        counts = files_.enter_context(atomic_file(path.with_suffix(SIZES))) if counting else None

        def write(ids: list[int], sizes: list[int]) -> None:
            data = np.asarray(ids, dtype).tobytes()
            total.update(data)
            out.write(data)
            if counts is not None:
                counts.write(np.asarray(sizes, "<u2").tobytes())

        for file, digest in files:
            start, count, size = at, 0, 0
            for pieces in _groups(split_text(read_blocks(file), tokenizer=tokenizer), 16):
                size += sum(len(p.encode("utf-8")) for p in pieces)
                for ids, sizes in _encode(tokenizer, pieces, counting):
                    write(ids, sizes)
                    count += len(ids)
            if tokenizer.eos_id is not None:
                write([tokenizer.eos_id], [0])
            documents.append(Document(file.name, digest, size, start, count))
            at = start + count + (tokenizer.eos_id is not None)
    listed = [asdict(d) for d in documents]
    index = {"key": key, "dtype": dtype, "ids_sha256": total.hexdigest(), "documents": listed}
    write_checked(path.with_suffix(".json"), index)
    return Corpus(path, tokenizer, key)


def open_corpus(key: str, tokenizer: Tokenizer, folder: Path) -> Corpus:
    """The corpus that `build_corpus` wrote to `folder`. Raises DataError if it is missing, CheckpointError if it is damaged."""
    path = folder / f"{key[:16]}.bin"
    if not path.exists() or not path.with_suffix(".json").exists():
        raise DataError(f"the tokenized text {path} is missing; name the same text files again")
    return Corpus(path, tokenizer, key)


def _opened(path: Path, tokenizer: Tokenizer, key: str) -> tuple[np.ndarray, list[Document]]:
    """Ids and documents, with all checksums verified. Files of early versions have none; only their structure is checked."""
    index = path.with_suffix(".json")
    try:
        found, sealed = read_checked(index)
        if found.get("key") != key:
            raise ValueError("it belongs to another text or tokenizer")
        if found.get("dtype") not in ("<u2", "<u4"):
            raise ValueError("it has no valid dtype of ids")
        documents = [Document(**d) for d in found["documents"]]
        ids = np.memmap(path, dtype=found["dtype"], mode="r")
        end = tokenizer.eos_id is not None
        at = 0
        for d in documents:
            if not all(map(is_count, (d.bytes, d.start, d.tokens))) or d.start != at:
                raise ValueError(f"its document {str(d.name)[:80]!r} has no valid place")
            at += d.tokens + end
        if at != len(ids) or hash_file(path) != found.get("ids_sha256", "" if sealed else hash_file(path)):
            raise ValueError("the ids beside it were altered or cut off")
        counted = path.with_suffix(SIZES)
        if losses(tokenizer) and (
            counted.stat().st_size != 2 * len(ids)
            or sum(map(int, np.fromfile(counted, "<u2"))) != sum(d.bytes for d in documents)
        ):
            raise ValueError("the byte counts beside it do not fit its documents")
        if not len(ids) or int(ids.max()) >= tokenizer.vocab_size:
            raise ValueError("the ids beside it are not this tokenizer's")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the tokenized text {index} cannot be used: {reason(error)[:300]}; name the same text files again"
        ) from error
    if not sealed:
        warnings.warn(f"{index} was written by an early version, without a checksum", FormatWarning, stacklevel=4)
    return ids, documents


def _encode(tokenizer: Tokenizer, pieces: list[str], counting: bool) -> Iterator[tuple[list[int], list[int]]]:
    """Ids of each piece, and if `counting` the bytes of text of each id."""
    if counting:
        yield from (encode_sized(tokenizer, p) for p in pieces)
        return
    many = getattr(tokenizer, "encode_many", None)
    yield from ((ids, []) for ids in (many(pieces) if many else map(tokenizer.encode, pieces)))


def _groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    source = iter(items)
    while group := list(islice(source, size)):
        yield group
