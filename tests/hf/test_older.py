"""Tokenizers in older files, which transformers converts: SentencePiece models, and files of llama2.c."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from siltstone.errors import TokenizerError
from siltstone.hf import tokens
from tests.text.pieces import TEXT, trained

from .tiny import edited, saved, transformers

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer")


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_sentencepiece(kind: str, tmp_path: Path) -> None:
    """Its ids are those of the library that trained it, after the space that this writes before a text."""
    library = pytest.importorskip("sentencepiece", reason="an optional package")
    pytest.importorskip("google.protobuf", reason="an optional package")
    source = saved(kind, tmp_path / "hf")
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    library.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(source / "tokenizer"), vocab_size=600, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    for name in ("tokenizer.json", "chat_template.jinja"):
        (source / name).unlink()
    edited(source, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", pad_token=None)
    tok = tokens.of_folder(source, [2], transformers)
    assert tok is not None and (tok.bos_id, tok.eos_id) == (1, 2)
    inner = library.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    assert tok.encode(" " + TEXT) == inner.encode(TEXT) and tok.decode(tok.encode(TEXT)) == TEXT


def scored(folder: Path) -> Path:
    """A file of llama2.c with the pieces of a tokenizer; the score of a piece is its rank."""
    vocab = sorted(trained()["vocab"], key=trained()["vocab"].get)
    rank = {"".join(pair): -float(i) for i, pair in enumerate(trained()["merges"])}
    data = struct.pack("<i", max(map(len, vocab)))
    for i, piece in enumerate(vocab):
        spelt = f"\n{piece}\n" if i in (1, 2) else piece.replace("▁", " ")
        data += struct.pack("<fi", rank.get(piece, -1e9 if i > 258 else 0.0), len(spelt.encode())) + spelt.encode()
    (folder / "tok649.bin").write_bytes(data)
    return folder / "tok649.bin"


def test_a_file_of_llama2c(tmp_path: Path) -> None:
    path = scored(tmp_path)
    tok = tokens.of_scores(path, [2], transformers)
    assert (tok.bos_id, tok.eos_id, tok.vocab_size) == (1, 2, len(trained()["vocab"]))
    assert tok.encode(TEXT) == merged(TEXT) and tok.decode(tok.encode(TEXT)) == TEXT
    source = saved("llama", tmp_path / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    found = tokens.given(str(path), [2], transformers)
    assert found.fingerprint == tok.fingerprint
    for damaged in (path.read_bytes()[:-1], path.read_bytes()[:3000], b"1234567"):
        path.write_bytes(damaged)
        with pytest.raises(TokenizerError, match="llama2.c"):
            tokens.of_scores(path, [2], transformers)


def merged(text: str) -> list[int]:
    """What llama2.c does: characters, bytes for those without a piece, then the best pair again and again."""
    vocab, rank = trained()["vocab"], {"".join(pair): i for i, pair in reversed([*enumerate(trained()["merges"])])}
    out: list[int] = []
    for word in text.replace(" ", "\0▁").split("\0"):  # no piece spans the beginning of a word
        parts = []
        for c in word:
            parts += [c] if c in vocab else [f"<0x{b:02X}>" for b in c.encode()]
        while pairs := [(rank[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in rank]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        out += [vocab[part] for part in parts]
    return out


def test_special_tokens_may_be_named_in_a_file_of_their_own(tmp_path: Path) -> None:
    source = saved("llama", tmp_path / "hf")
    (source / "tokenizer_config.json").write_text('{"bos_token": "<bos>"}', "utf-8")
    (source / "special_tokens_map.json").write_text('{"bos_token": "<pad>", "eos_token": {"content": "<eos>"}}', "utf-8")
    tok = tokens.of_folder(source, [], transformers)
    assert tok is not None and (tok.bos_id, tok.eos_id, tok.pad_id) == (0, 1, None)


def test_a_folder_with_nothing(tmp_path: Path) -> None:
    assert tokens.of_folder(tmp_path, [], transformers) is None
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        tokens.given(str(tmp_path), [], transformers)
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(TokenizerError, match="transformers cannot read"):
        tokens.of_folder(tmp_path, [], transformers)
