"""Tokenizers with the published pre-tokenizer patterns, trained on a small text."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import tokenizers as hf
from tokenizers import Regex
from tokenizers import pre_tokenizers as pre

from siltstone.text import BPETokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": GPT2,
    "cl100k": rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}",
    "llama3": rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}",
    "qwen": rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}",
    "o200k": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "tiktoken": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "deepseek": (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
        r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "thousands": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
}
TEXT = (
    "It was the best of times, it was the worst of times -- isn't it? WE'LL see: 1,234,567 of 89.\n\n"
    "def main(argv):\r\n\treturn  [x for x in argv if x > 10]   # naïve façade.\n"
    "東京は日本の首都です。 人口は1400万人。\n Привет, мир!\n\n\n   😀😀 e\u0301 a\u030a \u00a0\u3000 don't.\n"
)

PARTS = [
    *("a", "B", "word", "Word", "ABC", "é", "e\u0301", "\u0301", "東京", "мир", "क्ष", "\uac00", "\u1100\u1161"),
    *("1", "12", "345678", "²", "'s", "'LL", "'", "\u2019", ".", ",", "--", "/", "_", "(", "!?", "😀", "👨\u200d👩", "<tool>"),
    *(" ", " ", " ", "  ", "   ", "\n", "\n", "\n\n", "\r\n", "\r", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b"),
]


def mixture(seed: int, length: int, kinds: int = len(PARTS)) -> str:
    """Parts at random, of at most so many kinds."""
    rng = random.Random(seed)
    some = rng.sample(PARTS, min(kinds, len(PARTS)))
    return "".join(rng.choice(some) for _ in range(length))


def _split(pattern: str) -> Any:
    return pre.Split(Regex(pattern), "isolated")


def pre_tokenizers() -> dict[str, Any]:
    """As their `tokenizer.json` has them."""
    bytes_only = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    found = {name: pre.Sequence([_split(pattern), bytes_only]) for name, pattern in PATTERNS.items() if name != "gpt2"}
    return found | {
        "gpt2": pre.ByteLevel(add_prefix_space=False),
        "smollm2": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
        "falcon": pre.Sequence(
            [pre.Punctuation("contiguous"), pre.ByteLevel(add_prefix_space=False), pre.Digits(), _split("[0-9][0-9][0-9]")]
        ),
        "deepseek3": pre.Sequence(
            [_split(r"\p{N}{1,3}"), _split("[一-龥\u3040-ゟ゠-ヿ]+"), _split(PATTERNS["deepseek"]), bytes_only]
        ),
        "deepseek1": pre.Sequence(
            [_split("[\r\n]"), _split(r"\s?[A-Za-zÀ-Ö\p{Cyrillic}]+"), _split(r"\s?[!-/:-~]+"), _split(r"\s+$")]
            + [_split("[一-龥ࠀ-一가-퟿]+"), pre.Digits(individual_digits=True), bytes_only]
        ),
    }


NAMES = sorted(pre_tokenizers())
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@cache
def published_json(name: str, size: int = 1200) -> str:
    """A tokenizer.json of that kind, with merges wherever its pre-tokenizer lets them be."""
    inner = hf.Tokenizer(hf.models.BPE())
    if name == "qwen":
        inner.normalizer = hf.normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers()[name]
    inner.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False, special_tokens=SPECIALS
    )
    inner.train_from_iterator([TEXT] * 3 + ["x.\n--\n\nf();\r\n" * 9, *(mixture(i, 400, 12) for i in range(40))], trainer)
    inner.add_tokens(["  ", "    ", "<tool>"])
    return inner.to_str()


def published(name: str) -> BPETokenizer:
    """The tokenizer. Qwen's says what it loses."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BPETokenizer.from_json(published_json(name))
