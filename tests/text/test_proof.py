"""A tokenizer.json is deterministic and keeps text, or says what it loses, or is refused."""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from siltstone.errors import InputError, TokenizerError
from siltstone.text import BPETokenizer, Tokenizer, encode_sized, library, load_tokenizer, losses, tokenizer_from_json
from siltstone.text.proof import PROBES
from tests.text.published import NAMES, PATTERNS, TEXT, published, published_json

Edit = Callable[[dict[str, Any]], Any]
HARMLESS: dict[str, Edit] = {
    "truncation": lambda t: t.update(truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
    "padding": lambda t: t.update(
        padding={
            **{"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None},
            **{"pad_id": 5, "pad_type_id": 0, "pad_token": "a"},
        }
    ),
    "post-processor": lambda t: t.update(
        post_processor={
            **{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}], "pair": []},
            "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}},
        }
    ),
    "no decoder": lambda t: t.update(decoder=None),
    "ignore_merges": lambda t: t["model"].update(ignore_merges=True),
    "fuse_unk": lambda t: t["model"].update(fuse_unk=True, unk_token="a", byte_fallback=True),
    "special tokens that strip": lambda t: [a.update(lstrip=True, rstrip=True, single_word=True) for a in t["added_tokens"][:3]],
    "normalized added tokens": lambda t: [a.update(normalized=True) for a in t["added_tokens"]],
    "a split at a text": lambda t: t.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split({"String": "e"}, "MergedWithNext"), t["pre_tokenizer"]]}
    ),
}
OFF: dict[str, tuple[Edit, str]] = {
    "dropout": (lambda t: t["model"].update(dropout=0.5), "dropout"),
    "prefix space": (lambda t: t["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
    "lstrip": (lambda t: t["added_tokens"][-1].update(lstrip=True), "'<tool>' includes"),
    "rstrip": (lambda t: t["added_tokens"][-1].update(rstrip=True), "'<tool>' includes"),
}
LOSSES: dict[str, tuple[Edit, Callable[[str], str], str]] = {
    "NFC": (lambda t: t.update(normalizer={"type": "NFC"}), lambda s: unicodedata.normalize("NFC", s), "normal form C "),
    "NFD": (lambda t: t.update(normalizer={"type": "NFD"}), lambda s: unicodedata.normalize("NFD", s), "normal form D "),
    "NFKC": (lambda t: t.update(normalizer={"type": "NFKC"}), lambda s: unicodedata.normalize("NFKC", s), "normal form KC"),
    "NFKD": (lambda t: t.update(normalizer={"type": "NFKD"}), lambda s: unicodedata.normalize("NFKD", s), "normal form KD"),
    "Lowercase": (lambda t: t.update(normalizer={"type": "Lowercase"}), str.lower, "capital letters"),
    "NFD and no accents": (
        lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}),
        lambda s: "".join(c for c in unicodedata.normalize("NFD", s) if not unicodedata.combining(c)),
        "accents",
    ),
    "no control characters": (lambda t: without(t, 0x04, 0xF1), lambda s: s.replace("\x04", ""), "0x04, 0xf1"),
}


def split(pattern: dict[str, str], behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def without(parsed: dict[str, Any], *lost: int) -> None:
    """The vocabulary without some bytes, and an unknown token that would end texts."""
    from siltstone.text.pipeline import byte_letters

    letters = {c for c, b in byte_letters().items() if b in lost}
    model = parsed["model"]
    model["vocab"] = {f"\u2581{i}" if letters & set(token) else token: i for token, i in model["vocab"].items()}
    model["merges"] = [pair for pair in model["merges"] if not letters & set("".join(pair))]
    model.update(unk_token="<|endoftext|>", fuse_unk=True, byte_fallback=True)


def replaced(normalizer: dict[str, Any]) -> Edit:
    return lambda t: t.update(normalizer=normalizer)


def before(part: dict[str, Any]) -> Edit:
    return lambda t: t.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [part, t["pre_tokenizer"]]})


REFUSED: dict[str, tuple[Edit, str]] = {
    "a letter is missing": (lambda t: without(t, ord("q"), 0xE2), "lacks 2 of the bytes.*0x71, 0xe2"),
    "most bytes are missing": (lambda t: without(t, *range(1, 99)), r"0x01.*, \.\.\."),
    "continuing_subword_prefix": (lambda t: t["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix='##'"),
    "end_of_word_suffix": (lambda t: t["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix='</w>'"),
    "another model": (lambda t: t["model"].update(type="Unigram"), "only byte-level BPE"),
    "no pre-tokenizer": (lambda t: t.update(pre_tokenizer=None), "only byte-level BPE"),
    "bytes twice": (lambda t: before(dict(t["pre_tokenizer"]))(t), "more than once"),
    "Strip": (replaced({"type": "Strip", "strip_left": True, "strip_right": True}), "normalizer 'Strip'"),
    "Replace": (replaced({"type": "Replace", "pattern": {"String": "a"}, "content": "b"}), "normalizer 'Replace'"),
    "Prepend": (replaced({"type": "Prepend", "prepend": " "}), "normalizer 'Prepend'"),
    "nested too deep": (
        lambda t: t.update(normalizer=deep({"type": "NFC"}, 20, lambda n: {"type": "Sequence", "normalizers": [n]})),
        "nested at most",
    ),
    "no sequence": (replaced({"type": "Sequence"}), "nested at most"),
    "Whitespace": (before({"type": "Whitespace"}), "pre-tokenizer 'Whitespace'"),
    "WhitespaceSplit": (before({"type": "WhitespaceSplit"}), "pre-tokenizer 'WhitespaceSplit'"),
    "BertPreTokenizer": (before({"type": "BertPreTokenizer"}), "pre-tokenizer 'BertPreTokenizer'"),
    "Metaspace": (before({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}), "pre-tokenizer 'Metaspace'"),
    "a split that removes": (before(split({"String": " "}, "Removed")), "behavior='Removed'"),
    "a split that removes by pattern": (before(split({"Regex": r"\s+"}, "Removed")), "behavior='Removed'"),
    "punctuation removed": (before({"type": "Punctuation", "behavior": "Removed"}), "behavior='Removed'"),
    "a long added token": (
        lambda t: t["added_tokens"][-1].update(content="x y " * 20, special=False),
        "80 characters.*at most 64",
    ),
    "hundreds of parts": (
        lambda t: t.update(
            pre_tokenizer={"type": "Sequence", "pretokenizers": [t["pre_tokenizer"], *[split({"String": "="})] * 99]}
        ),
        "100 parts",
    ),
    "no pattern": (before({"type": "Split", "pattern": 5, "behavior": "Isolated"}), "give a String or a Regex"),
    "a huge id": (lambda t: t["model"]["vocab"].update(far=2**31), "an id of 0 to 1048575"),
    "an id below zero": (lambda t: t["model"]["vocab"].update(far=-1), "an id of 0 to"),
    "an id that is no number": (lambda t: t["model"]["vocab"].update(far="1"), "an id of 0 to"),
    "an id twice": (lambda t: t["model"]["vocab"].update(far=9), "two tokens the same id"),
    "a huge added id": (lambda t: t["added_tokens"][-1].update(id=2**31), "added_tokens must be"),
    "an added token without text": (lambda t: t["added_tokens"][-1].update(content=""), "added_tokens must be"),
    "an added token of another's id": (lambda t: t["added_tokens"][-1].update(id=40), "another token's id 40"),
    "added tokens that are no list": (lambda t: t.update(added_tokens={"a": 1}), "added_tokens must be"),
    "an added token twice": (lambda t: t["added_tokens"].append(dict(t["added_tokens"][-1])), "a token twice"),
    "too much added": (
        lambda t: t.update(added_tokens=[{"id": 9000 + i, "content": f"{i:200}", "special": False} for i in range(6000)]),
        "more than 1,048,576 characters",
    ),
    "a special that is ordinary text": (lambda t: special_word(t, "a"), "as a special token"),
    "a special that is an ordinary word": (lambda t: special_word(t, "\u0120the"), "as a special token"),
    "an added token for other bytes": (
        lambda t: t["added_tokens"].append(
            t["added_tokens"][-1] | {"content": "\u0120the", "id": t["model"]["vocab"]["\u0120the"]}
        ),
        "for other bytes",
    ),
    "a gap": (lambda t: t["model"]["vocab"].update(far=9000), "leave no gaps"),
    "merges of nothing": (lambda t: t["model"].update(merges=[["qqq", "zzz"]]), "cannot be read"),
    "merges that are no list": (lambda t: t["model"].update(merges=7), "cannot be read"),
    "control characters": (lambda t: t["model"].update(merges=[["\x1b[31m" * 99, "z"]]), "cannot be read"),
}


def special_word(parsed: dict[str, Any], name: str) -> None:
    parsed["added_tokens"].append(
        parsed["added_tokens"][0] | {"content": name, "id": parsed["model"]["vocab"][name], "special": True}
    )


def deep(inner: Any, times: int, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(times):
        inner = wrap(inner)
    return inner


def edited(edit: Edit) -> str:
    parsed = json.loads(published_json("gpt2"))
    edit(parsed)
    return json.dumps(parsed)


def keeps(tokenizer: Tokenizer, text: str) -> bool:
    ids = tokenizer.encode(text)
    return ids == tokenizer.encode(text) and b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("name", NAMES)
def test_published_tokenizers_load_and_keep_text(name: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tokenizer = tokenizer_from_json(published_json(name))
    assert isinstance(tokenizer, Tokenizer)
    assert len(said) == len(losses(tokenizer)) == (name == "qwen")
    assert tokenizer.eos_id == tokenizer.bos_id == 0
    for text in (unicodedata.normalize("NFC", TEXT), "<|im_end|></s>\x00"):
        assert keeps(tokenizer, text) and not {0, 1, 2} & set(tokenizer.encode(text))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_no_text_is_accepted(name: str) -> None:
    tokenizer = tokenizer_from_json(edited(HARMLESS[name]))
    assert losses(tokenizer) == () and all(keeps(tokenizer, text) for text in (TEXT, *PROBES))


@pytest.mark.parametrize("name", OFF)
def test_what_can_be_switched_off_is_and_says_so(name: str) -> None:
    edit, words = OFF[name]
    with pytest.warns(UserWarning, match=f"is used without .*{words}"):
        tokenizer = tokenizer_from_json(edited(edit))
    plain = published("gpt2")
    for text in (TEXT, " a <tool>  b"):
        assert keeps(tokenizer, text) and tokenizer.encode(text) == plain.encode(text)
    assert tokenizer.to_json() == edited(edit) and tokenizer.fingerprint != plain.fingerprint


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_named_and_bytes_are_counted_from_the_text(name: str) -> None:
    edit, read, words = LOSSES[name]
    with pytest.warns(UserWarning, match="loses text"):
        tokenizer = tokenizer_from_json(edited(edit))
    assert words in "; ".join(losses(tokenizer))
    text = TEXT + "\x04\x04 \u212b \ufb01 \u1e69 s\u0323\u0307 ÀÉ\n\x04"
    ids, sizes = encode_sized(tokenizer, text)
    assert ids == tokenizer.encode(text) and tokenizer.decode(ids) == read(text) != text
    assert sum(sizes) == len(text.encode()) and len(sizes) == len(ids) and min(sizes) >= 0
    assert sum(encode_sized(tokenizer, "")[1]) == 0


def test_bytes_of_each_id() -> None:
    ids, sizes = encode_sized(published("qwen"), "1s\u0323\u03072")
    assert len(ids) == 5 and sizes == [1, 0, 0, 5, 1]  # three ids of one character
    tokenizer = published("gpt2")
    assert encode_sized(tokenizer, TEXT)[1] == [len(tokenizer.token_bytes(i)) for i in tokenizer.encode(TEXT)]


@pytest.mark.parametrize("name", ["cl100k", "o200k", "bloom"])
def test_a_split_that_keeps_its_matches_alone_drops_nothing(name: str) -> None:
    parsed = json.loads(published_json(name))
    parsed["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed", invert=True)
    tokenizer = tokenizer_from_json(json.dumps(parsed))
    assert tokenizer.encode(TEXT) == published(name).encode(TEXT) and keeps(tokenizer, TEXT)


def test_offsets_are_not_trimmed() -> None:
    parsed = json.loads(published_json("qwen"))
    parsed["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    with pytest.warns(UserWarning, match="normal form C"):
        tokenizer = tokenizer_from_json(json.dumps(parsed))
    assert encode_sized(tokenizer, TEXT) == encode_sized(published("qwen"), TEXT)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_without_a_utf8_form(text: str) -> None:
    tokenizer = published("llama3")
    for call in (tokenizer.encode, tokenizer.encode_sized, lambda t: tokenizer.encode_many(["a", t])):
        with pytest.raises(InputError, match="lone surrogate"):
            call(text)


def test_a_tokenizer_with_losses_must_count() -> None:
    class Small:
        vocab_size, losses, encode = 1, ("everything",), staticmethod(lambda text: [])

    with pytest.raises(TokenizerError, match="Small has losses .*encode_sized"):
        encode_sized(Small(), "a")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REFUSED)
def test_what_loses_text_or_is_damaged_is_refused(name: str) -> None:
    edit, words = REFUSED[name]
    with pytest.raises(TokenizerError, match=words) as error:
        tokenizer_from_json(edited(edit))
    assert len(str(error.value)) < 700 and str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        *(
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"model": ' + "9" * 6000 + "}",
            '{"a": 1, "a": 2}',
            '{"\\ud800": NaN}',
            "\ufeff{}",
            "",
        ),
        *('{"model": null}', '{"model": []}', '{"type": "siltstone-bytes", "version": {}}', "nul", '"\x1b[2J"'),
    ],
    ids=range(12),
)
def test_hostile_json(text: str) -> None:
    with pytest.raises(TokenizerError) as error:
        tokenizer_from_json(text)
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


def test_a_file_has_a_largest_size(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siltstone.text import load

    monkeypatch.setattr(load, "LARGEST", 1000)
    (tmp_path / "tokenizer.json").write_text(published_json("gpt2"))
    with pytest.raises(TokenizerError, match="at most 1,000 are read"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(library, "LARGEST", 1000)
    with pytest.raises(TokenizerError, match="at most 1,000 are allowed"):
        tokenizer_from_json(published_json("gpt2"))
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer("a\0b")


def test_an_ordinary_token_is_no_special() -> None:
    parsed = json.loads(published_json("gpt2"))
    parsed["added_tokens"] = []
    parsed["model"]["vocab"] |= {"</s>": 9000, "<s>": 9001, "</": 9002, "s>": 9003, "[PAD]": 9004}
    parsed["model"]["merges"] += [["<", "/"], ["s", ">"], ["</", "s>"]]
    tokenizer = tokenizer_from_json(json.dumps(parsed))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, None, None)
    assert keeps(tokenizer, "a</s>b <s>")


def test_a_panic_of_the_library_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Regex
    from tokenizers import pre_tokenizers as pre

    tokenizer = published("llama3")
    assert isinstance(tokenizer, BPETokenizer)
    inner = tokenizer._inner
    monkeypatch.setattr(tokenizer, "_inner", type(inner).from_str(inner.to_str()))
    tokenizer._inner.pre_tokenizer = pre.Split(Regex("(a|aa)+$"), "isolated")  # type: ignore[assignment]
    for call in (lambda: tokenizer.encode("a" * 60 + "b"), lambda: tokenizer.encode_many(["a" * 60 + "b"])):
        with pytest.raises(TokenizerError, match="cannot read this text.*retry-limit"):
            call()
    with pytest.raises(KeyboardInterrupt):
        raise library.failure(KeyboardInterrupt(), "x")


@pytest.mark.parametrize("name", PATTERNS)
def test_published_patterns_are_accepted(name: str) -> None:
    from siltstone.text.pattern import check_pattern

    check_pattern(PATTERNS[name], "here")


HOSTILE = [
    *(r"(a+)+$", r"(a|aa)+$", r"(a*)*b", r"a*a*b", r".*.*=.*", r"(\w+\s?)*z", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(.*)*x"),
    *(r"(?:a?){30}a{30}", "a?" * 30 + "a" * 30, r"(\d+)*\1", "((a{99}){99}){99}", r"(?=(a+)+b)", r"a+(?!.*)", r"\g<0>"),
    *(r"(?<n>a+)+b", r"(x+x+)+y", r"a**b", r"a{1,3}+b", r"(?x)a +", "(" * 50 + ")" * 50, "(", "[", "a)", "\\", "[]a]", "a{3,1}"),
    *(r"(?:a|b|ab)*c", r"(?:\s*,\s*)+x", r"\s*\s*\s*x", r"(a?b?)*c", "(*FAIL)", "(?~ab)", "x{1000}{1000}", "a" * 5000),
    *(
        r".* *+\S",
        r".*(?:  )*+\S",
        r".*(?:  |ab)*+\S",
        r".{0,900} *+(?<=\S)",
        r".{0,60}.{0,15}.*\S",
        r"\S{0,900}.+?(?:\d\d){5,9}?",
    ),
]


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda p: p[:20])
def test_hostile_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(TokenizerError, match="pre_tokenizer Split has the regular expression .* because ") as error:
        tokenizer_from_json(edited(before(split({"Regex": pattern}))))
    assert len(str(error.value)) < 500 and str(error.value).isprintable()
