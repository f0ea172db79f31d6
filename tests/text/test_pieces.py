"""Tokenizers of pieces and bytes: lossless, and with the ids of the library for a text after its first space."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import tokenizers as hf

from siltstone.errors import TokenizerError
from siltstone.text import StreamDecoder, Tokenizer, load_tokenizer, split_text, tokenizer_from_json
from siltstone.text.pieces import PieceTokenizer

from .pieces import FORMS, TEXT, trained, written

HARD = "<s> </s> <unk> <0x41> ▁ ▁▁the\u2581 e\u0301 東京 😀 \x00\x85\u2028\r\n\t  two   three\n\n "
every_form = pytest.mark.parametrize("form", FORMS)


def made(form: str, **changes: Any) -> Tokenizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer_from_json(written(form, **changes))


@every_form
def test_nothing_is_lost(form: str) -> None:
    tok = made(form)
    assert isinstance(tok, PieceTokenizer) and tok.losses == () and (tok.bos_id, tok.eos_id) == (1, 2)
    for text in (TEXT, HARD, "", "▁", "a", " a", HARD * 3):
        ids = tok.encode(text)
        assert b"".join(map(tok.token_bytes, ids)) == text.encode() and tok.decode(ids) == text
        assert not {0, 1, 2} & {*ids}
    assert tok.encode_many([TEXT, HARD, ""]) == [tok.encode(TEXT), tok.encode(HARD), []]
    decoder = StreamDecoder(tok)
    assert "".join(map(decoder.push, tok.encode(HARD))) + decoder.finish() == HARD


@every_form
def test_ids_are_those_of_the_library_after_the_space_that_it_adds(form: str) -> None:
    tok, library = made(form), hf.Tokenizer.from_str(written(form))
    library.encode_special_tokens = True
    space = "" if form == "replace" else " "
    for text in (TEXT, "the list", "x  =  1\ny", HARD.replace("▁", "_")):
        assert tok.encode(space + text) == library.encode(text, add_special_tokens=False).ids


@every_form
def test_what_is_switched_off_is_said(form: str) -> None:
    if form == "replace":
        tokenizer_from_json(written(form))  # nothing: a warning would be an error
        return
    with pytest.warns(UserWarning, match="without the space before the first word"):
        tokenizer_from_json(written(form))


@every_form
def test_a_text_is_split_where_its_ids_are_those_of_the_whole(form: str) -> None:
    tok = made(form)
    parts = list(split_text([TEXT], 500, tok))
    assert len(parts) > 10 and "".join(parts) == TEXT
    assert [i for part in parts for i in tok.encode(part)] == tok.encode(TEXT)


@every_form
def test_it_is_written_as_it_was_read(form: str, tmp_path: Any) -> None:
    tok = made(form)
    assert tok.to_json() == written(form)
    (tmp_path / "tokenizer.json").write_text(tok.to_json(), "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_tokenizer(tmp_path).fingerprint == tok.fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(normalizer={"type": "NFKC"}), "normalizer 'NFKC'"),
        (dict(normalizer={"type": "Prepend", "prepend": "x"}), "normalizer 'Prepend'"),
        (dict(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer 'Whitespace'"),
        (dict(model=trained() | {"vocab": {k: i for i, k in enumerate(trained()["vocab"]) if k != "<0x0A>"}}), "<0x0A>"),
        (dict(model=trained() | {"end_of_word_suffix": "</w>"}), "end_of_word_suffix"),
        (dict(model=trained() | {"vocab": trained()["vocab"] | {"<0x0A>": 0}}), "same id"),
    ],
)
def test_others_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        made("replace", **changes)


def test_dropout_is_switched_off() -> None:
    tok = made("replace", model=trained() | {"dropout": 0.5})
    assert tok.encode(TEXT) == made("replace").encode(TEXT)


SETTINGS = {"bos_token": {"content": "</s>"}, "eos_token": "<s>", "chat_template": "{{ messages }}", "end_token_ids": [0, 2]}


def test_settings_name_special_tokens_and_the_chat_template() -> None:
    text, settings = written("replace"), json.dumps(SETTINGS)
    tok: Any = tokenizer_from_json(text, settings)
    assert (tok.bos_id, tok.eos_id, tok.pad_id, tok.end_ids, tok.chat_template) == (2, 1, None, (0, 2), "{{ messages }}")
    assert tok.specials == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert tok.settings_json() == settings and tok.fingerprint == tokenizer_from_json(text).fingerprint
    named = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]
    assert tokenizer_from_json(text, json.dumps({"chat_template": named})).chat_template == "b"  # type: ignore[attr-defined]


def test_tokens_that_settings_name_are_special_even_if_the_tokenizer_does_not_say_so() -> None:
    ordinary = json.loads(written("replace"))["added_tokens"][:2]
    for added in ([], [token | {"special": False} for token in ordinary]):
        tok = tokenizer_from_json(written("replace", added_tokens=added), json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
        assert (tok.bos_id, tok.eos_id) == (1, 2) and tok.token_bytes(1) == b"" and tok.decode(tok.encode("<s>")) == "<s>"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('{"eos_token": "<end>"}', "'<end>', which tokenizer.json does not have"),
        ('{"eos_token": 7}', "eos_token='7'"),
        ('{"chat_template": 7}', "chat_template='7'"),
        ('{"end_token_ids": ["a"]}', "end_token_ids"),
        ("[1]", "cannot be read"),
    ],
)
def test_settings_that_cannot_be_used(settings: str, words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        tokenizer_from_json(written("replace"), settings)
