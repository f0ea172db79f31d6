"""Cutting bytes: the same tokens as the whole text, whatever the reads brought, in bounded memory."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from siltstone.inference.pieces import PIECE, pieces
from siltstone.text import train_bpe

ODD = "It's 3,14 — 東京 is far\r\n\r\n\t  indented\u00a0 \u3000 wide   \n\n\n😀😀 don't\n"


class Drip:
    """A source whose reads bring anything from 1 byte on."""

    def __init__(self, data: bytes, seed: int) -> None:
        self.file, self.random = io.BytesIO(data), random.Random(seed)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, self.random.choice([1, 3, 100, 5000])))


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize(
    "data", [b"", b"x", b"\n", ODD.encode() * 90, b"a" * 9000, "é".encode() * 5000, b"\n" * 5000, b"\x80" * 5000]
)
def test_pieces_do_not_depend_on_the_reads(data: bytes, lines: bool) -> None:
    whole = list(pieces(io.BytesIO(data), lines))
    assert b"".join(whole) == data and all(0 < len(p) <= PIECE for p in whole)
    for seed in range(3):
        assert list(pieces(Drip(data, seed), lines)) == whole


def test_a_stream_taken_up_at_a_piece_goes_on_the_same() -> None:
    data = ODD.encode() * 200
    whole = list(pieces(io.BytesIO(data)))
    for done in range(len(whole)):
        assert list(pieces(io.BytesIO(data[sum(map(len, whole[:done])) :]))) == whole[done:]


def test_lines() -> None:
    data = b"one\n\n" + b"long " * 1000 + b"\nlast"
    found = list(pieces(io.BytesIO(data), lines=True))
    assert found[:2] == [b"one\n", b"\n"] and found[-1] == b"last"
    assert sum(p.endswith(b"\n") for p in found) == 3


def test_a_line_is_there_before_the_next_is_read() -> None:
    class Live:
        def __init__(self) -> None:
            self.reads = 0

        def read1(self, size: int) -> bytes:
            self.reads += 1
            return b"%d\n" % self.reads

    live = Live()
    source = pieces(live, lines=True)
    for i in range(1, 5):
        assert next(source) == b"%d\n" % i and live.reads == i


@pytest.mark.parametrize("data", ["é".encode() * 5000, "東".encode() * 5000, "😀".encode() * 3000, ODD.encode() * 100])
def test_characters_stay_whole(data: bytes) -> None:
    for piece in pieces(io.BytesIO(data)):
        piece.decode()


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory):
    path: Path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(ODD * 20 + Path(__file__).read_text("utf-8") * 3, "utf-8")
    return train_bpe(path, 700)


@settings(deadline=None, max_examples=40)
@given(
    some.lists(
        some.sampled_from([*ODD.split(" "), " ", "  ", "\n", "\t", "\u00a0", "\u2028", "word", "'s"]), min_size=300, max_size=900
    )
)
def test_tokens_are_those_of_the_whole_text(bpe, words: list[str]) -> None:
    text = " ".join(words)
    cut = [bpe.encode(p.decode()) for p in pieces(io.BytesIO(text.encode()))]
    assert sum(cut, []) == bpe.encode(text)
