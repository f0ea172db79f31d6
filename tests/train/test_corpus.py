"""Text becomes ids once, whole, and only if it is text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siltstone.errors import CheckpointError, DataError
from siltstone.text import BPETokenizer, ByteTokenizer, encode_sized, train_bpe
from siltstone.train import Recipe
from siltstone.train.corpus import build_corpus, corpus_key, hashed_files, open_corpus
from siltstone.train.rows import Rows


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_documents_and_ids(texts: Path, tmp_path: Path, kind: str) -> None:
    tokenizer = ByteTokenizer() if kind == "bytes" else train_bpe(texts, 300)
    files = hashed_files([texts])
    corpus = build_corpus(files, tokenizer, tmp_path / "data")
    assert [d.name for d in corpus.documents] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    for i, (path, digest) in enumerate(files):
        text = path.read_text("utf-8")
        assert tokenizer.decode(corpus.document(i)) == text
        assert corpus.documents[i].bytes == len(text.encode()) == corpus.sizes[corpus.document(i)].sum()
        assert corpus.documents[i].sha256 == digest
        end = corpus.documents[i].start + corpus.documents[i].tokens
        assert corpus.ids[end] == tokenizer.eos_id
        assert len(corpus.document(i, 7)) == 7
    assert len(corpus.ids) == corpus.tokens + 4
    assert isinstance(corpus.ids, np.memmap)
    assert corpus.key == corpus_key(files, tokenizer)


def test_the_work_is_done_once(texts: Path, tmp_path: Path) -> None:
    files = hashed_files([texts])
    corpus = build_corpus(files, ByteTokenizer(), tmp_path / "data")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").iterdir()}
    assert len(stamps) == 2
    for path in texts.iterdir():
        path.unlink()
    again = build_corpus(files, ByteTokenizer(), tmp_path / "data")
    assert np.array_equal(corpus.ids, again.ids)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "data").iterdir()} == stamps
    assert np.array_equal(open_corpus(corpus.key, ByteTokenizer(), tmp_path / "data").ids, corpus.ids)
    with pytest.raises(DataError, match="is missing"):
        open_corpus("0" * 64, ByteTokenizer(), tmp_path / "data")


def test_parts(texts: Path, tmp_path: Path) -> None:
    """Every id is an input once, save the end-of-text ids, and no part goes across documents."""
    corpus = build_corpus(hashed_files([texts]), ByteTokenizer(), tmp_path / "data")
    parts = corpus.parts(100)
    inputs = np.concatenate([np.arange(a, b) for a, b, _ in parts])
    assert np.array_equal(corpus.ids[inputs], np.concatenate([corpus.document(i) for i in range(4)]))
    assert max(b - a for a, b, _ in parts) == 100
    assert len(corpus.parts(10**6)) == 4


def test_held_out_files_are_left_out(texts: Path) -> None:
    held_out = hashed_files([texts / "2.txt"])
    left = hashed_files([texts], {digest for _, digest in held_out})
    assert [p.name for p, _ in left] == ["0.txt", "1.txt", "3.txt"]
    with pytest.raises(DataError, match="also held out"):
        hashed_files([texts / "2.txt"], {digest for _, digest in held_out})


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "is empty"), (b"a\0b", "byte 1 is zero"), (b"word \xff", "not valid UTF-8 at byte 5")]
)
def test_what_is_no_text(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "bad.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"bad\.txt .*{words}"):
        build_corpus(hashed_files([tmp_path / "bad.txt"]), ByteTokenizer(), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_bytes_are_the_texts_where_a_tokenizer_loses_some(tmp_path: Path) -> None:
    text = "Cafe\u0301 and cafe\u0301, " * 30 + "the end of it. "
    (tmp_path / "a.txt").write_text(text, "utf-8")
    plain = json.loads(train_bpe(tmp_path / "a.txt", 280).to_json())
    with pytest.warns(UserWarning, match="loses text"):
        lossy = BPETokenizer(json.dumps(plain | {"normalizer": {"type": "NFC"}}))
    corpus = build_corpus(hashed_files([tmp_path / "a.txt"]), lossy, tmp_path / "data")
    document = corpus.documents[0]
    assert corpus.bytes_of(0, document.tokens) == document.bytes == len(text.encode("utf-8"))
    rows = Rows(corpus, Recipe(steps=1, batch=1, length=document.tokens - 1))
    first = len(text.encode("utf-8")) - rows.next().bytes
    assert first == encode_sized(lossy, text)[1][0]
    path = next((tmp_path / "data").glob("*.sizes"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match="the byte counts beside it do not fit its documents"):
        open_corpus(corpus.key, lossy, tmp_path / "data")
