"""Whoever counts bits per byte counts the bytes of the text, whatever the tokenizer loses."""

from __future__ import annotations

import io
import unicodedata

import pytest

import siltstone as st
from siltstone.eval import by_position
from siltstone.inference.pieces import pieces
from siltstone.inference.reader import Reader
from siltstone.text import Tokenizer, losses
from tests.text.published import TEXT, published

LOST = unicodedata.normalize("NFD", "é à ç " + TEXT) * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One that composes characters."""
    tokenizer = published("qwen")
    assert losses(tokenizer) and tokenizer.decode(tokenizer.encode(LOST)) != LOST
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> st.LM:
    return st.LM(st.presets.nano(tokenizer.vocab_size, d_model=16, heads=2, depth=1, window=8, segment=16)).eval()


def test_a_stream(model: st.LM, tokenizer: Tokenizer) -> None:
    reader = Reader(st.Session(model, tokenizer))
    for piece in pieces(io.BytesIO(LOST.encode()), tokenizer=tokenizer, size=200):
        reader.feed(piece)
    assert reader.cost.tokens == len(tokenizer.encode(LOST))
    assert reader.offset == reader.cost.bytes + reader.cost.unscored == len(LOST.encode())
    assert reader.cost.unscored == len("e\u0301".encode()) == 1 + len(tokenizer.token_bytes(tokenizer.encode(LOST)[0]))


def test_by_position(model: st.LM, tokenizer: Tokenizer) -> None:
    found = by_position(model, tokenizer, ["x" + LOST], buckets=[0, 40, 100_000])
    assert sum(bucket["bytes"] for bucket in found["buckets"]) == len(LOST.encode())
    kept = len(tokenizer.decode(tokenizer.encode(LOST)).encode())
    assert kept < len(LOST.encode())
