"""Streams documents through a model in batches and chunks, and returns the cost of each token."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import streaming
from ..models.fingerprint import plain_model
from ..models.streaming import StreamingModel


def stream_nats(
    model: StreamingModel,
    documents: Sequence[np.ndarray],
    chunk: int = 512,
    batch: int = 8,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    cuts: Tensor | None = None,
) -> Iterator[tuple[list[int], int, np.ndarray]]:
    """-log p (nats) of every token except the first of each document, given all earlier tokens of the document.

    documents   one array of ids each, of any lengths
    cuts        bool [vocab_size], the tokens that end a segment (`siltstone.text.cut_table`)
    Yields (indices of at most `batch` documents, position p of the first input, nats float64 [B, n]): column c has the cost of
    the token at position p + 1 + c, NaN after the end of a document.
    """
    model = plain_model(model)
    device = model.like.device
    lengths = [len(d) for d in documents]
    order = sorted(range(len(documents)), key=lambda i: -lengths[i])
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        state = None
        for start in range(0, max(0, lengths[rows[0]] - 1), chunk):
            width = min(chunk, lengths[rows[0]] - 1 - start)
            ids = np.zeros((len(rows), width + 1), np.int64)
            left = np.array([max(0, min(width, lengths[i] - 1 - start)) for i in rows])
            for r, i in enumerate(rows):
                if left[r]:
                    ids[r, : left[r] + 1] = documents[i][start : start + left[r] + 1]
            mask = np.arange(width) < left[:, None]
            tokens = torch.from_numpy(ids).to(device)
            with torch.no_grad(), autocast():
                valid = None if mask.all() else torch.from_numpy(mask).to(device)
                cut = None if cuts is None else cuts[torch.from_numpy(ids[:, :-1])]
                logits, state = streaming.logits(model, tokens[:, :-1], state, mask=valid, cut=cut)
                nats = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            nats = nats.view(len(rows), width).double().cpu().numpy()
            yield rows, start, np.where(mask, nats, np.nan)


@dataclass(frozen=True)
class Score:
    """The cost of a text: total nats, number of predicted tokens, and the bytes of text that these represent."""

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text; NaN without bytes."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan


def score_documents(
    model: StreamingModel,
    documents: Sequence[np.ndarray],
    sizes: np.ndarray | Sequence[int],
    chunk: int = 512,
    batch: int = 8,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    stop: Callable[[], bool] = lambda: False,
    cuts: Tensor | None = None,
) -> Score | None:
    """The total cost of all documents; None if `stop()` became true.

    sizes   [vocab_size] bytes of text of each id, or a sequence: bytes of text of each document without its first id
    cuts    see `stream_nats`
    """
    nats, tokens = 0.0, 0
    for _, _, found in stream_nats(model, documents, chunk, batch, autocast, cuts):
        if stop():
            return None
        nats += float(np.nansum(found))
        tokens += int(np.isfinite(found).sum())
    counts = [int(sizes[d[1:]].sum()) for d in documents] if isinstance(sizes, np.ndarray) else sizes
    return Score(nats, tokens, sum(counts))
