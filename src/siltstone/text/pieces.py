"""BPE on characters with bytes as a last resort, as SentencePiece trains it: the tokenizers of Llama 2 and Mistral.

The vocabulary has pieces, in which U+2581 stands for a space, and the 256 bytes as `<0x00>` to `<0xFF>`; a character without a
piece becomes its bytes. A text's own U+2581 becomes its three bytes, so that nothing is lost. The space that such tokenizers
write before the first word is switched off: it is not in the text.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, ClassVar

from ..errors import TokenizerError
from .bpe import BPETokenizer
from .library import quoted
from .pipeline import Pipeline, kind_of, parts_of, sequence_of

SPACE = "\u2581"
BYTE = re.compile("<0x([0-9A-F]{2})>")
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
BEFORE = (  # a space before the text, also before one that begins with a space
    {"type": "Prepend", "prepend": SPACE},
    {"type": "Replace", "pattern": {"Regex": f"\\A{SPACE}"}, "content": 2 * SPACE},
)
_OFF = "the space before the first word, which is not in the text"


def made_of_pieces(parsed: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` is of this kind."""
    model = parsed.get("model")
    if not isinstance(model, dict) or kind_of(model) != "BPE" or not model.get("byte_fallback"):
        return False
    return not any(kind_of(part) == "ByteLevel" for part in parts_of(parsed.get("pre_tokenizer"), "pretokenizers"))


class PiecePipeline(Pipeline):
    """`Pipeline` for this kind of tokenizer."""

    def spelling(self, token: str) -> bytes | None:
        """See Pipeline."""
        byte = BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode("utf-8", "replace")

    def _model(self, parsed: dict[str, Any]) -> None:
        vocab = self._vocabulary(parsed["model"])
        lacking = [f"<0x{b:02X}>" for b in range(256) if f"<0x{b:02X}>" not in vocab]
        if lacking:
            raise TokenizerError(
                f"model.vocab lacks {len(lacking)} of the 256 bytes ({', '.join(lacking[:4])}), so that text would be lost; "
                "take a tokenizer with all of them"
            )
        self._merges(parsed["model"])

    def _normalizer(self, normalizer: Any) -> None:
        for part in sequence_of(normalizer, "normalizers"):
            if part in BEFORE:
                part.clear()
                part.update(REPLACE)
                self._off()
            elif part != REPLACE:
                raise TokenizerError(
                    f"the normalizer {quoted(kind_of(part), 40)} changes text; with pieces, accepted are Prepend of U+2581 and "
                    "Replace of a space by U+2581"
                )

    def _pre_tokenizer(self, pre: Any) -> None:
        for part in sequence_of(pre, "pretokenizers"):
            if kind_of(part) != "Metaspace" or part.get("replacement") != SPACE:
                raise TokenizerError(
                    f"the pre-tokenizer {quoted(kind_of(part), 40)} cannot be used with pieces; accepted is Metaspace with U+2581"
                )
            if part.get("prepend_scheme", "always") != "never":
                self._off()
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)

    def _off(self) -> None:
        if _OFF not in self.off:
            self.off.append(_OFF)


class PieceTokenizer(BPETokenizer):
    """`BPETokenizer` for this kind of tokenizer."""

    _pipeline: ClassVar[type[Pipeline]] = PiecePipeline

    @cached_property
    def _mark(self) -> list[int]:
        """The ids of U+2581: those of its bytes."""
        return [self._inner.get_vocab()[f"<0x{byte:02X}>"] for byte in SPACE.encode()]

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0]

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        split = [text.split(SPACE) for text in texts]
        found = super().encode_many([part for one in split for part in one])
        edges, mark = accumulate(map(len, split), initial=0), self._mark
        return [_join(found[a:b], mark) for a, b in pairwise(edges)]


def _join(lists: list[list[int]], between: list[int]) -> list[int]:
    out = list(lists[0])
    for one in lists[1:]:
        out += between + one
    return out
