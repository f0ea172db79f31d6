"""Where texts are cut: the ids of the pieces are those of the whole text, for every usual pre-tokenizer."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from siltstone.errors import TokenizerError
from siltstone.inference.pieces import pieces
from siltstone.text import ByteTokenizer, split_text, tokenizer_from_json
from siltstone.text.seams import seam
from tests.text.published import NAMES, PARTS, TEXT, published

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
@settings(max_examples=12, deadline=None)
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


@pytest.mark.parametrize("name", ["cl100k", "llama3", "o200k", "qwen", "tiktoken", "deepseek"])
def test_line_ends_stay_with_what_the_pattern_joins_them_to(name: str) -> None:
    """Nearly every place before a line end is inside a token of these patterns."""
    tokenizer = published(name)
    for text in ("x.\n" * 400, "f();\r\n" * 300, "-- \n\n" * 300, "a\n \n\t\n" * 300, TEXT * 20):
        whole = tokenizer.encode(text)
        found = [p.decode() for p in pieces(io.BytesIO(text.encode()), tokenizer=tokenizer, size=256)]
        assert len(found) > 2 and max(map(len, found)) <= 256 and ids(tokenizer, found) == whole
        unseen = [p.decode() for p in pieces(io.BytesIO(text.encode()), size=256)]
        assert ids(tokenizer, unseen) != whole or text.startswith(("a", "It", "--"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama3", "1234567890" * 2000),
        ("smollm2", "1234567890" * 2000),
        ("cl100k", "東京、日本。" * 800),
        ("o200k", "camelCase" * 2000),
        ("llama3", "word\n" + " " * 1500 + "\n" + " " * 1500 + "word " * 900),
    ],
)
def test_long_runs(name: str, text: str) -> None:
    tokenizer = published(name)
    found = [p.decode() for p in pieces(io.BytesIO(text.encode()), tokenizer=tokenizer)]
    assert "".join(found) == text and 1 < len(found) and ids(tokenizer, found) == tokenizer.encode(text)


@pytest.mark.parametrize("data", [b"\x80" * 50_000, b"x" * 50_000, "é".encode() * 20_000, b" " * 50_000, b"\xe6\x9d " * 9_000])
def test_a_run_without_a_cut_is_bounded_and_characters_stay_whole(data: bytes) -> None:
    found = list(pieces(io.BytesIO(data), tokenizer=published("llama3")))
    assert b"".join(found) == data and max(map(len, found)) <= 16384
    assert list(pieces(Drip(data, 1), tokenizer=published("llama3"))) == found
    assert sum(len(p.decode("utf-8", "replace")) for p in found) == len(data.decode("utf-8", "replace"))


@pytest.mark.parametrize("name", ["gpt2", "llama3"])
def test_lines_are_read_by_themselves(name: str) -> None:
    tokenizer = published(name)
    lines = ["one.\n", "\n", "\r\n", "word, " * 90 + "\n", "x" * 700 + "\n", "last"]
    found = [p.decode() for p in pieces(io.BytesIO("".join(lines).encode()), True, tokenizer=tokenizer, size=200)]
    at = 0
    for line in lines:
        own = []
        while sum(map(len, own)) < len(line):
            own.append(found[at])
            at += 1
        assert "".join(own) == line and ids(tokenizer, own) == tokenizer.encode(line)
    assert at == len(found)
    drip = list(pieces(Drip("".join(lines).encode(), 2), True, tokenizer=tokenizer, size=200))
    assert [p.decode() for p in drip] == found


class Words:
    """A tokenizer of another kind: a word, with the space before it, is one id; nothing else is known of it."""

    def encode(self, text: str) -> list[int]:
        return [hash(word) for word in text.replace(" ", "\0 ").split("\0") if word]


class Begins(Words):
    """One that adds an id at the beginning of each text, so that no cut can be proved."""

    def encode(self, text: str) -> list[int]:
        return [1, *super().encode(text)]


def test_any_tokenizer_that_encodes_will_do() -> None:
    text = "some words, " * 300
    words, begins = Words(), Begins()
    found = list(split_text([text], 100, words))  # type: ignore[arg-type]
    assert ids(words, found) == words.encode(text) and max(map(len, found)) <= 100
    unproved = list(split_text([text], 100, begins))  # type: ignore[arg-type]
    assert "".join(unproved) == text and all(p.endswith(("s", "some", ",")) for p in unproved[:-1])


def test_bytes_are_cut_as_without_a_tokenizer() -> None:
    text = TEXT * 30 + "x" * 5000
    for lines in (False, True):
        assert list(pieces(io.BytesIO(text.encode()), lines, tokenizer=ByteTokenizer())) == list(
            pieces(io.BytesIO(text.encode()), lines)
        )


def test_what_the_tokenizer_raises_is_raised() -> None:
    class Broken(Words):
        def encode(self, text: str) -> list[int]:
            raise TokenizerError("no")

    with pytest.raises(TokenizerError, match="no"):
        seam("a word " * 90, 100, 200, Broken(), True)  # type: ignore[arg-type]


def test_encoding_goes_on_in_a_fork() -> None:
    import multiprocessing
    import sys

    if sys.platform != "linux":
        return
    tokenizer = published("llama3")
    wanted = tokenizer.encode_many([TEXT] * 20)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(tokenizer.encode_many, ([TEXT] * 20,)).get(60) == wanted


def test_added_tokens_of_several_words_are_not_cut() -> None:
    """Where they are found depends on all the text before, however far away: here on the first letter of a long run."""
    parsed = json.loads(published("gpt2").to_json())
    number = max([*parsed["model"]["vocab"].values(), *(t["id"] for t in parsed["added_tokens"])]) + 1
    keys = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    parsed["added_tokens"].append({"id": number, "content": "a b a ", **keys})
    tokenizer = tokenizer_from_json(json.dumps(parsed))
    for text in ("a b " * 900, "b " + "a b " * 900, "a b a " * 500):
        found = [p.decode() for p in pieces(io.BytesIO(text.encode()), tokenizer=tokenizer, size=256)]
        assert len(found) > 2 and ids(tokenizer, found) == tokenizer.encode(text)
