"""Reading text: which files, in which order, and what is refused."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from siltstone.errors import DataError
from siltstone.text import find_files, read_blocks, split_text, train_bpe


def test_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "deep/c.LOG", "skip.bin", ".hidden/d.txt", ".e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    names = [p.relative_to(tmp_path).as_posix() for p in find_files([tmp_path])]
    assert names == ["a.md", "b.txt", "deep/c.LOG"]
    twice = find_files([tmp_path / "skip.bin", tmp_path, tmp_path / "b.txt"])
    assert [p.name for p in twice] == ["skip.bin", "a.md", "b.txt", "c.LOG"]
    with pytest.raises(DataError, match="does not exist"):
        find_files([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no text file"):
        find_files([tmp_path / "empty"])


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_any_block_size_reads_the_same(tmp_path: Path, block: int) -> None:
    text = "a\r\né東😀\ufeff end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert "".join(read_blocks(tmp_path / "a.txt", block=block)) == text


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"ab\0c", "byte 2 is zero"),
        (b"ab\xffc", "not valid UTF-8 at byte 2"),
        ("aé".encode() + b"\xe9 x", "not valid UTF-8 at byte 3"),
        ("é".encode() + b"\xf0\x9f", "not valid UTF-8 at byte 2"),
        (b"x\xed\xa0\x80", "not valid UTF-8 at byte 1"),
    ],
)
def test_what_is_no_text(block: int, data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"^book .*{words}"):
        list(read_blocks(io.BytesIO(data), "book", block))


def test_pieces_give_the_tokens_of_the_whole(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["the", "naïve", "—", "it's", "42", "!", "\n\n", "  ", "\t", "x", "東京"]
    text = "".join(rng.choice(words) + rng.choice([" ", " ", " ", "", "\n", "  "]) for _ in range(4000))
    (tmp_path / "a.txt").write_text(text, "utf-8", newline="")
    tokenizer = train_bpe(tmp_path, 300)
    blocks = list(read_blocks(tmp_path / "a.txt", block=333))
    pieces = list(split_text(blocks, 400))
    assert "".join(pieces) == text
    assert len(pieces) > 15
    assert max(map(len, pieces)) < 800
    assert [i for p in pieces for i in tokenizer.encode(p)] == tokenizer.encode(text)


def test_text_without_words_is_cut_anyway() -> None:
    pieces = list(split_text(["x" * 1000], 100))
    assert "".join(pieces) == "x" * 1000
    assert max(map(len, pieces)) == 200
