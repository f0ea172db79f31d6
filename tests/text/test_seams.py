"""Where texts are cut: the ids of the pieces are those of the whole text, for every usual pre-tokenizer."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from siltstone.stream.pieces import pieces
from siltstone.text import split_text
from tests.text.published import NAMES, published

PARTS = [
    *("a", "B", "word", "Word", "ABC", "é", "e\u0301", "\u0301", "東京", "мир", "क्ष", "\uac00", "\u1100\u1161"),
    *("1", "12", "345678", "²", "'s", "'LL", "'", "\u2019", ".", ",", "--", "/", "_", "(", "!?", "😀", "👨\u200d👩", "<tool>"),
    *(" ", " ", " ", "  ", "   ", "\n", "\n", "\n\n", "\r\n", "\r", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b"),
]
TEXTS = some.lists(some.sampled_from(PARTS), max_size=120).map("".join)


def blocks(text: str, seed: int) -> Iterator[str]:
    """The text in blocks of any length."""
    rng, at = random.Random(seed), 0
    while at < len(text):
        length = rng.choice([1, 2, 7, 50, 1000])
        yield text[at : at + length]
        at += length


class Drip:
    """The bytes of a text in reads of any length."""

    def __init__(self, data: bytes, seed: int) -> None:
        self.file, self.random = io.BytesIO(data), random.Random(seed)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, self.random.choice([1, 3, 60, 5000])))


def ids(tokenizer, parts: Iterable[str]) -> list[int]:
    return [i for part in parts for i in tokenizer.encode(part)]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(text=TEXTS, size=some.sampled_from([40, 90]), seed=some.integers(0, 9))
def test_pieces_give_the_ids_of_the_whole_text(name: str, text: str, size: int, seed: int) -> None:
    tokenizer = published(name)
    whole = tokenizer.encode(text)
    found = list(split_text([text], size, tokenizer))
    assert "".join(found) == text and ids(tokenizer, found) == whole
    assert list(split_text(blocks(text, seed), size, tokenizer)) == found
    data = text.encode()
    streamed = list(pieces(io.BytesIO(data), tokenizer=tokenizer, size=size))
    assert b"".join(streamed) == data and ids(tokenizer, (p.decode() for p in streamed)) == whole
    assert list(pieces(Drip(data, seed), tokenizer=tokenizer, size=size)) == streamed
