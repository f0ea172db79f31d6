"""Tokenizers: text to ids and back, exactly; specials; files; fingerprints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.errors import DataError, InputError, SiltstoneError, TokenizerError
from siltstone.text import ByteTokenizer, StreamDecoder, Tokenizer, load_tokenizer, tokenizer_from_json, train_bpe

TEXT = "It was the best of times, it was the worst of times — naïve façade, 東京, 😀! Don't  stop.\n\n\tEnd <eos> <pad>.\r\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_bytes((TEXT * 50).encode())
    return path


@pytest.fixture(scope="module")
def bpe(corpus: Path) -> Tokenizer:
    return train_bpe([corpus], 300)


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest, bpe: Tokenizer) -> Tokenizer:
    return ByteTokenizer() if request.param == "bytes" else bpe


def test_round_trip_and_protocol(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert b"".join(map(tokenizer.token_bytes, ids)) == TEXT.encode()


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_round_trips(text: str, bpe: Tokenizer) -> None:
    for tokenizer in (ByteTokenizer(), bpe):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 258), max_size=40), cuts=st.lists(st.integers(0, 40), max_size=6), data=st.data())
def test_a_stream_decodes_to_the_same_text(ids: list[int], cuts: list[int], data: st.DataObject, bpe: Tokenizer) -> None:
    """Also for bytes that are no UTF-8, however the ids are cut, and through copies."""
    for tokenizer in (ByteTokenizer(), bpe):
        decoder = StreamDecoder(tokenizer)
        edges = [0, *sorted(min(c, len(ids)) for c in cuts), len(ids)]
        pieces = []
        for begin, end in zip(edges, edges[1:], strict=False):
            pieces.append(decoder.push(ids[begin:end]))
            assert len(decoder.pending) <= 3
            decoder = decoder.copy()
        assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)
        assert decoder.finish() == ""


def test_partial_characters_are_held_back() -> None:
    decoder = StreamDecoder(ByteTokenizer())
    pieces = [decoder.push(i) for i in "a😀b".encode()]
    assert pieces == ["a", "", "", "", "😀", "b"]
    assert decoder.push([0xF0, 0x9F]) == ""
    other = decoder.copy()
    assert other.push([0x98, 0x80]) == "😀"
    assert decoder.pending == b"\xf0\x9f"
    assert decoder.finish() == "\ufffd"


def test_specials(tokenizer: Tokenizer) -> None:
    specials = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    assert len(set(specials)) == 3
    assert tokenizer.decode([i for i in specials if i is not None]) == ""
    assert not set(tokenizer.encode("<bos><eos><pad>")) & set(specials)


def test_ids_out_of_range(tokenizer: Tokenizer) -> None:
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(InputError, match=f"id {wrong} is not in the"):
            tokenizer.decode([wrong])
    with pytest.raises(InputError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


def test_json_and_fingerprint(tokenizer: Tokenizer) -> None:
    text = tokenizer.to_json()
    again = tokenizer_from_json(text)
    assert type(again) is type(tokenizer)
    assert again.to_json() == text
    assert again.fingerprint == tokenizer.fingerprint
    assert len(tokenizer.fingerprint) == 64
    assert tokenizer_from_json(json.dumps(json.loads(text), indent=3)).fingerprint == tokenizer.fingerprint
    assert again.encode(TEXT) == tokenizer.encode(TEXT)


def test_the_byte_fingerprint_never_changes() -> None:
    """Session files name it."""
    assert ByteTokenizer().fingerprint == "263a2741a94253e82927456000dbf05bc4b32faaaff840fdb7bbad42af0c968d"


def test_training_is_repeatable_and_respects_the_size(corpus: Path, bpe: Tokenizer) -> None:
    assert train_bpe(corpus, 300).fingerprint == bpe.fingerprint
    assert bpe.vocab_size == 300
    assert load_tokenizer("bpe:300", [corpus]).fingerprint == bpe.fingerprint
    with pytest.raises(TokenizerError, match="at least 259"):
        train_bpe([corpus], 200)


def test_loading(tmp_path: Path, bpe: Tokenizer) -> None:
    assert isinstance(load_tokenizer("bytes"), ByteTokenizer)
    (tmp_path / "tokenizer.json").write_text(bpe.to_json(), "utf-8")
    assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint == bpe.fingerprint
    assert load_tokenizer(str(tmp_path)).fingerprint == bpe.fingerprint


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("byte", "not known"),
        ("bpe:many", "needs a number"),
        ("bpe:300", "no text was given"),
        ("{folder}/broken.json", "JSON cannot be read"),
    ],
)
def test_bad_specs(tmp_path: Path, spec: str, words: str) -> None:
    (tmp_path / "broken.json").write_text('{"model": ')
    with pytest.raises(TokenizerError, match=words):
        load_tokenizer(spec.format(folder=tmp_path))


def test_other_kinds_are_refused() -> None:
    words = hf.Tokenizer(hf.models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(TokenizerError, match="only byte-level BPE"):
        tokenizer_from_json(words.to_str())
    with pytest.raises(TokenizerError, match="not the byte tokenizer of this version"):
        tokenizer_from_json('{"type": "siltstone-bytes", "version": 2}')
    with pytest.raises(TokenizerError, match="must be an object"):
        tokenizer_from_json("[]")


def test_training_on_bad_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="byte 3"):
        train_bpe(tmp_path, 300)
    with pytest.raises(SiltstoneError):
        train_bpe(tmp_path / "missing", 300)


def test_added_tokens_that_are_no_specials_keep_their_text(bpe: Tokenizer) -> None:
    inner = hf.Tokenizer.from_str(bpe.to_json())
    inner.add_tokens(["Übermaß"])
    tokenizer = tokenizer_from_json(inner.to_str())
    ids = tokenizer.encode("Übermaß ab")
    assert ids[0] == bpe.vocab_size
    assert tokenizer.decode(ids) == "Übermaß ab"
