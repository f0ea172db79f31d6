"""Tests that a tokenizer keeps text: probes are encoded twice, and the bytes of their ids must be those of the text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..errors import TokenizerError
from .library import quoted

_LETTERS = (
    "".join(map(chr, range(128)))  # one byte, control characters included
    + "".join(chr((lead & 0x1F) << 6 | (5 * lead & 0x3F)) for lead in range(0xC2, 0xE0))
    + "".join(chr(lead << 6 | lead) for lead in range(0x20, 0x40))
    + "".join(chr((lead & 0xF) << 12 | (0xA00 if lead in (0xE0, 0xED) else 0)) for lead in range(0xE0, 0xED))
    + "\ue000\uf8ff\ufffd\U00010000\U0001f600\U00040000\U00080000\U000c0000\U00100000\U0010ffff"
)
PROBES = (
    _LETTERS,
    *(
        f"{before}{word}{after}"
        for word in ("", "word")
        for before in ("", " ", "   ", "\t")
        for after in ("", " ", "  ", "\n\n ")
    ),
    "It's the 1st of 12,345,678 -- isn't it?! I'LL go.  "
    "Two  spaces,\ttabs\t\t and\r\nline\r\n\r\nends\n\n\n  x \u00a0\u2003\u3000y",
    "\ufeffmark \u200b\u200d\u00ad end \u2028 \u2029 \x85 \x00\x00 \x1b[31m",
    "e\u0301 \u00e9 A\u030a \u212b \u1e69 s\u0323\u0307 \u0915\u093c \ufb01 \uff21 \u00b2 \u0130 \u1e9e \u03a3\u03c3\u03c2",
    "\uac00 \u1100\u1161 \u6771\u4eac \u0645\u0631\u062d\u0628\u0627 \u05e9\u05b8 \u0e01\u0e33 "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    "<s> </s> <unk> [UNK] [CLS] <pad> <|endoftext|> <bos><eos> \u0120the \u2581the ##ing the</w> <0x41>",
    *(c * 70 for c in " \n\tax1.\u00e9\u6771\u0301"),
    "x" * 70 + " " * 70 + "\n",
)


def prove(
    encode: Callable[[str], list[int]],
    encode_many: Callable[[list[str]], list[list[int]]],
    table: Sequence[bytes],
    read: Callable[[str], bytes],
    own: Iterable[str],
    specials: frozenset[int],
) -> None:
    """Raises TokenizerError for a tokenizer that gives different ids the second time, or that loses or changes a probe.

    table       bytes of each id
    read        text -> the bytes that the tokenizer keeps: all except for its declared losses
    own         the tokenizer's added tokens and texts that look like them, which must be read as text
    specials    ids that no text may be encoded as
    """
    own = list(own)
    together = [" ".join(own), "x".join(own)] if own else []
    probes = [*PROBES, *together, *own[:64]]
    for text, again in zip(probes, encode_many(probes), strict=True):
        ids = encode(text)
        if ids != again:
            raise TokenizerError(f"the tokenizer gives {quoted(text, 40)} other ids each time; use one without random choices")
        if specials.intersection(ids):
            raise TokenizerError(
                f"the tokenizer reads the text {quoted(text, 40)} as a special token, which ends or begins texts; "
                "take a tokenizer whose special tokens are not ordinary text"
            )
        kept = b"".join([table[i] for i in ids])
        if kept != read(text) and kept != text.encode():
            raise TokenizerError(
                f"the tokenizer loses text: {quoted(text, 40)} becomes {quoted(kept.decode('utf-8', 'replace'), 40)}; "
                "use a byte-level BPE tokenizer, for example one that bpe:8192 trains"
            )
