"""Tokenizers of pieces and bytes, as SentencePiece trains them, in the forms that `tokenizer.json` gives them."""

from __future__ import annotations

import json
from functools import cache
from pydoc_data import topics
from typing import Any

import tokenizers as hf

TEXT = "\n".join(topics.topics[name] for name in ("strings", "lists", "operator-summary"))
PREPEND = {"type": "Prepend", "prepend": "▁"}
TWICE = {"type": "Replace", "pattern": {"Regex": "\\A▁"}, "content": "▁▁"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def metaspace(scheme: str, split: bool) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


FORMS: dict[str, dict[str, Any]] = {
    "prepend": dict(normalizer={"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, pre_tokenizer=None),
    "metaspace": dict(normalizer=None, pre_tokenizer=metaspace("first", False)),
    "metaspace always, in words": dict(normalizer=None, pre_tokenizer=metaspace("always", True)),
    "metaspace, twice before a space": dict(
        normalizer={"type": "Sequence", "normalizers": [REPLACE, TWICE]}, pre_tokenizer=metaspace("always", False)
    ),
    "replace": dict(normalizer=REPLACE, pre_tokenizer=None),
}


@cache
def trained() -> dict[str, Any]:
    """The model of a tokenizer: three specials, 256 bytes, pieces of up to 8 characters."""
    inner = hf.Tokenizer(hf.models.BPE())
    inner.pre_tokenizer = hf.pre_tokenizers.Metaspace(split=True)
    inner.train_from_iterator([TEXT], hf.trainers.BpeTrainer(vocab_size=400, show_progress=False, max_token_length=8))
    model = json.loads(inner.to_str())["model"]
    pieces = [x for x in sorted(model["vocab"], key=model["vocab"].get) if x not in "\n\té"]
    merges = [m for m in model["merges"] if "\n" not in "".join(m)]
    pieces = [x for x in pieces if "\n" not in x]
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    return dict(
        type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=True,
        byte_fallback=True, ignore_merges=False, vocab={x: i for i, x in enumerate(vocab)}, merges=merges,
    )  # fmt: skip


def written(form: str, **changes: Any) -> str:
    """The text of a tokenizer.json."""
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    added = [dict(id=i, content=name, **plain) for i, name in enumerate(("<unk>", "<s>", "</s>"))]
    parts = [REPLACE | {"pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    post = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, first],
        "pair": [first, second],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    return json.dumps(
        dict(version="1.0", truncation=None, padding=None, added_tokens=added, post_processor=post)
        | dict(decoder={"type": "Sequence", "decoders": parts}, model=trained())
        | FORMS[form]
        | changes
    )
