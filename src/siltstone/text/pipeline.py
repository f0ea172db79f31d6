"""Checks the parts of a `tokenizer.json`: each is kept, switched off, kept with a loss, or refused.

Every field that the `tokenizers` library uses is checked. A field that would change, add or drop text is switched off if the
rest has the same meaning without it. A Unicode normaliser is kept, and its loss is reported. Any other part that changes text
raises TokenizerError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from ..errors import TokenizerError
from .library import quoted
from .pattern import check_pattern
from .seams import CONTEXT

MOST_IDS = 1 << 20
_DEEP, _LONG, _ALL = 8, 256, 1 << 20  # maximum nesting of sequences; characters of an added token, and of all added tokens
_PARTS = 64  # maximum parts of a sequence
_LOSSES = {
    "NFC": "text is read in Unicode normal form C (composed characters)",
    "NFD": "text is read in Unicode normal form D (decomposed characters)",
    "NFKC": "text is read in Unicode normal form KC (composed; compatible characters become one)",
    "NFKD": "text is read in Unicode normal form KD (decomposed; compatible characters become one)",
    "Lowercase": "capital letters are read as small ones",
    "StripAccents": "accents are not read",
}
_KEPT = ("isolated", "mergedwithprevious", "mergedwithnext", "contiguous")  # behaviours of a split that drop no text


_WRITTEN = {*range(0xC0), *range(0xC2, 0xF5)}  # the bytes that occur in UTF-8
_RARE = {*range(0x20), 0x7F, *range(0xF1, 0xF5)} - set(b"\t\n\r")  # control characters; planes without letters


def byte_letters() -> dict[str, int]:
    """Letter -> byte in byte-level vocabularies: printable Latin-1 letters are their own bytes; the others begin at U+0100."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in set(shown)]
    return {chr(b): b for b in shown} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


@cache
def _latin() -> dict[int, int]:
    """Letter -> the character of Latin-1 with its byte. Others become one that is not in Latin-1: encoding it raises an error."""
    letters = {ord(letter): byte for letter, byte in byte_letters().items()}
    return letters | {i: 0x100 for i in range(0x100) if i not in letters}


class Pipeline:
    """The pipeline of a parsed `tokenizer.json`. The JSON is changed in place if parts are switched off.

    off       parts that were switched off, in words
    losses    what encoding loses, in words
    lost      bytes that encoding drops
    changed   whether the JSON was changed
    added     added tokens: text -> id
    specials  the special ones of these
    named     tokens that are special because the tokenizer's settings say so
    Raises TokenizerError.
    """

    def __init__(self, parsed: dict[str, Any], named: Collection[str] = ()) -> None:
        self.off: list[str] = []
        self.losses: list[str] = []
        self.lost, self.changed = b"", False
        self._model(parsed)
        self._normalizer(parsed.get("normalizer"))
        self._pre_tokenizer(parsed.get("pre_tokenizer"))
        self._name(parsed, named)
        self.added, self.specials = self._added(parsed)
        post = parsed.get("post_processor")
        if post is not None and (self.losses or kind_of(post) != "ByteLevel"):  # ByteLevel only trims offsets
            parsed["post_processor"], self.changed = None, True
        self.changed |= bool(self.off)

    def spelling(self, token: str) -> bytes | None:
        """The bytes that an entry of the vocabulary represents; None if no text is encoded as it."""
        try:
            return token.translate(_latin()).encode("latin-1")
        except UnicodeEncodeError:
            return None

    def _name(self, parsed: dict[str, Any], named: Collection[str]) -> None:
        """Marks named tokens as special, and adds those that are only in the vocabulary."""
        added, vocab = parsed.get("added_tokens") or [], parsed["model"]["vocab"]
        if not isinstance(added, list) or not all(_is_added(token) for token in added):
            return  # `_added` reports it
        known = {token["content"]: token for token in added}
        for name in sorted(named):
            if name not in known and name not in vocab:
                raise TokenizerError(
                    f"tokenizer_config.json names the special token {quoted(name, 40)}, which tokenizer.json does not have; "
                    "take both from the same tokenizer"
                )
            token = known.get(name)
            if token is None:
                plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                added.append({"id": vocab[name], "content": name, **plain, "special": True})
                parsed["added_tokens"], self.changed = added, True
            elif not token.get("special"):
                token["special"], self.changed = True, True

    def _model(self, parsed: dict[str, Any]) -> None:
        model, pre = parsed.get("model"), parsed.get("pre_tokenizer")
        if (
            not isinstance(model, dict)
            or kind_of(model) != "BPE"
            or not any(kind_of(part) == "ByteLevel" for part in parts_of(pre, "pretokenizers"))
        ):
            raise TokenizerError(
                f"only byte-level BPE tokenizers can be used, and this one is {quoted(kind_of(model), 40)} with "
                f"pre-tokenizer {quoted(kind_of(pre), 40)}; "
                "train one with bpe:8192, or use 'bytes'"
            )
        vocab = self._vocabulary(model)
        lost = {b for letter, b in byte_letters().items() if b in _WRITTEN and letter not in vocab}
        named = f"{', '.join(f'0x{b:02x}' for b in sorted(lost)[:8])}{', ...' if len(lost) > 8 else ''}"
        if lost - _RARE:
            raise TokenizerError(
                f"model.vocab lacks {len(lost)} of the bytes that text is made of ({named}), so that text would be lost; "
                "train with initial_alphabet=ByteLevel.alphabet(), or with siltstone's bpe:8192"
            )
        if lost:  # as in SmolLM2
            model.update(unk_token=None, fuse_unk=False, byte_fallback=False)
            self.changed = True
            self.losses.append(f"bytes without a token are left out ({named})")
            self.lost = bytes(sorted(lost))
        self._merges(model)

    def _vocabulary(self, model: dict[str, Any]) -> dict[str, int]:
        vocab = model.get("vocab")
        if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i < MOST_IDS for i in vocab.values()):
            raise TokenizerError(f"model.vocab must give each token an id of 0 to {MOST_IDS - 1}; take an intact tokenizer.json")
        if len(set(vocab.values())) < len(vocab):
            raise TokenizerError(
                "model.vocab gives two tokens the same id, so that text would be lost; take an intact tokenizer.json"
            )
        return vocab

    def _merges(self, model: dict[str, Any]) -> None:
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                raise TokenizerError(
                    f"model.{key}={quoted(model[key], 40)} adds characters to tokens that are not in the text; "
                    "use a tokenizer without it, for example one that bpe:8192 trains"
                )
        if model.get("dropout"):
            model["dropout"] = None
            self.off.append("dropout of merges, which is for training and gives other ids each time")

    def _normalizer(self, normalizer: Any) -> None:
        for part in sequence_of(normalizer, "normalizers"):
            kind = kind_of(part)
            if kind not in _LOSSES:
                raise TokenizerError(
                    f"the normalizer {quoted(kind, 40)} changes text; accepted are {', '.join(_LOSSES)}, or none"
                )
            self.losses.append(_LOSSES[kind])

    def _pre_tokenizer(self, pre: Any) -> None:
        parts = sequence_of(pre, "pretokenizers")
        if sum(kind_of(part) == "ByteLevel" for part in parts) > 1:
            raise TokenizerError("pre_tokenizer has ByteLevel more than once, so that bytes are written twice; keep one")
        for part in parts:
            kind = kind_of(part)
            if kind == "ByteLevel":
                if part.get("add_prefix_space"):
                    part["add_prefix_space"] = False
                    self.off.append("the space before the first word (add_prefix_space), which is not in the text")
            elif kind == "Split":
                self._keeps(part)
                pattern = part.get("pattern")
                if not isinstance(pattern, dict) or not any(isinstance(pattern.get(k), str) for k in ("String", "Regex")):
                    raise TokenizerError(f"pre_tokenizer Split has the pattern {quoted(pattern, 80)}; give a String or a Regex")
                if "Regex" in pattern:
                    check_pattern(str(pattern["Regex"]), "pre_tokenizer Split")
            elif kind == "Punctuation":
                self._keeps(part)
            elif kind != "Digits":
                raise TokenizerError(
                    f"the pre-tokenizer {quoted(kind, 40)} drops or changes text, and cannot be used; "
                    "accepted are ByteLevel, Split, Digits and Punctuation"
                )

    def _keeps(self, part: dict[str, Any]) -> None:
        behavior = part.get("behavior", "isolated")
        if part.get("invert") is True and str(behavior).lower() == "removed":
            # For patterns that match everywhere, such as cl100k's, both mean the same; others drop text that does not match.
            part["behavior"], self.changed = "Isolated", True
            return
        if str(behavior).lower() not in _KEPT:
            raise TokenizerError(
                f"pre_tokenizer {kind_of(part)} has behavior={quoted(behavior, 40)}, which drops text; "
                "accepted are Isolated, MergedWithPrevious, MergedWithNext and Contiguous"
            )

    def _added(self, parsed: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
        added, vocab = parsed.get("added_tokens") or [], parsed["model"]["vocab"]
        if not isinstance(added, list) or not all(_is_added(token) for token in added):
            raise TokenizerError(
                f"added_tokens must be a list of tokens, each with a content of 1 to {_LONG} characters and an id of 0 to "
                f"{MOST_IDS - 1}; take an intact tokenizer.json"
            )
        if sum(len(token["content"]) for token in added) > _ALL:
            raise TokenizerError(f"added_tokens have more than {_ALL:,} characters together; leave out those that are not needed")
        names = {id_: name for name, id_ in vocab.items()}
        for token in added:
            content, id_ = token["content"], token["id"]
            if names.setdefault(id_, content) != content or vocab.get(content, id_) != id_:
                raise TokenizerError(
                    f"added token {quoted(content, 40)} has another token's id {id_}, or two ids; take an intact tokenizer.json"
                )
            if token.get("special"):
                continue
            if len(content) > CONTEXT:
                raise TokenizerError(
                    f"added token {quoted(content, 40)} has {len(content)} characters; one that is not special may have at most "
                    f"{CONTEXT}, so that long texts can be split next to it; leave it out"
                )
            if content in vocab and self.spelling(content) != content.encode("utf-8", "replace"):
                raise TokenizerError(
                    f"added token {quoted(content, 40)} is also in the vocabulary, for other bytes; leave it out"
                )
            if token.get("lstrip") or token.get("rstrip"):
                token["lstrip"] = token["rstrip"] = False
                self.off.append(f"the white space that the added token {quoted(content, 40)} includes (lstrip, rstrip)")
        found = {token["content"]: token["id"] for token in added}
        if len(found) < len(added):
            raise TokenizerError("added_tokens has a token twice; take an intact tokenizer.json")
        return found, {token["content"]: token["id"] for token in added if token.get("special")}


def _is_added(token: Any) -> bool:
    if not isinstance(token, dict):
        return False
    content, id_ = token.get("content"), token.get("id")
    return isinstance(content, str) and 0 < len(content) <= _LONG and type(id_) is int and 0 <= id_ < MOST_IDS


def kind_of(part: Any) -> str:
    return str(part.get("type", "none")) if isinstance(part, dict) else "none"


def sequence_of(part: Any, key: str) -> list[dict[str, Any]]:
    """All parts of a sequence. Raises TokenizerError."""
    found = list(parts_of(part, key))
    if len(found) > _PARTS:
        raise TokenizerError(f"{key} has {len(found):,} parts; at most {_PARTS} are allowed; take an intact tokenizer.json")
    return found


def parts_of(part: Any, key: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The parts of a (possibly nested) sequence. Raises TokenizerError."""
    if part is None:
        return
    inner = part.get(key) if kind_of(part) == "Sequence" else None
    if not isinstance(part, dict) or depth > _DEEP or (kind_of(part) == "Sequence" and not isinstance(inner, list)):
        raise TokenizerError(f"{key} must be nested at most {_DEEP} deep, each with a type; take an intact tokenizer.json")
    if inner is None:
        yield part
    else:
        for one in inner:
            yield from parts_of(one, key, depth + 1)
