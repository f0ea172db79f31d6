"""Bits per byte by position: shows whether a model uses distant tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError, InputError
from ..models.streaming import StreamingModel
from ..text import Tokenizer, cut_table, encode_sized
from .stream import stream_nats


def by_position(
    model: StreamingModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    length: int | None = None,
    buckets: Sequence[int] | None = None,
    chunk: int = 512,
    batch: int = 8,
) -> dict[str, Any]:
    """Bits per byte of `texts` in buckets of token position, the same documents in every bucket.

    length    tokens read of each document (default: length of the shortest); shorter documents are left out
    buckets   edges of the buckets, ascending; default 0, 64, 128, 256, ... up to `length`
    chunk     tokens a call
    batch     documents a batch

    Each document is streamed from its beginning with its state. A token counts in the bucket of its position (the first token
    of a document, at 0, is not predicted). Returns, ready for JSON:
    `{"length", "documents", "left_out", "bits_per_byte", "buckets": [{"from", "to", "bits_per_byte", "tokens", "bytes",
    "each": [bits per byte of each document]}]}`. Bytes are those of the texts, also if the tokenizer loses text.
    Raises DataError if no document is long enough, InputError for edges that are not ascending, TokenizerError for a tokenizer
    that loses text and cannot count bytes.
    """
    found = [np.array(encode_sized(tokenizer, text), np.int64) for text in texts]  # [2, tokens]: ids, and bytes of each
    lengths: list[int] = [d.shape[1] for d in found]
    if length is None:
        length = min(lengths, default=0)
    kept = [d[:, :length] for d in found if d.shape[1] >= length]
    if not kept or length < 2:
        longest = max(lengths, default=0)
        raise DataError(f"no text has length={length} tokens (at least 2); the longest of {len(found)} has {longest}")
    edges = _edges(length) if buckets is None else [*buckets]
    if len(edges) < 2 or any(a >= b for a, b in zip(edges, edges[1:], strict=False)) or edges[0] < 0:
        raise InputError(f"buckets={edges} must be at least two ascending positions, for example [0, 64, 128]")

    nats = np.zeros((len(kept), length))
    for rows, start, cost in stream_nats(model, [ids for ids, _ in kept], chunk, batch, cuts=cut_table(model.cfg, tokenizer)):
        nats[rows, start + 1 : start + 1 + cost.shape[1]] = cost
    counts = np.stack([sizes for _, sizes in kept])
    counts[:, 0] = 0

    def bits(begin: int, end: int) -> dict[str, Any]:
        cost, size = nats[:, begin:end].sum(1) / math.log(2), counts[:, begin:end].sum(1)
        return {
            "bits_per_byte": float(cost.sum() / max(1, size.sum())),
            "tokens": len(kept) * (min(end, length) - max(begin, 1)),
            "bytes": int(size.sum()),
            "each": [float(x) for x in cost / np.maximum(1, size)],
        }

    inside = [(a, min(b, length)) for a, b in zip(edges, edges[1:], strict=False) if max(a, 1) < min(b, length)]
    return {
        "length": length,
        "documents": len(kept),
        "left_out": len(found) - len(kept),
        "bits_per_byte": bits(0, length)["bits_per_byte"],
        "buckets": [{"from": a, "to": b, **bits(a, b)} for a, b in inside],
    }


def _edges(length: int) -> list[int]:
    edges = [0, 64]
    while edges[-1] < length:
        edges.append(2 * edges[-1])
    return edges
