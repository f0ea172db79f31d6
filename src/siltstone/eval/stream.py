"""Documents streamed through a model, piece by piece and side by side, with what each token costs."""

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
    """Minus the log-probability (nats) of every token but each document's first, given all before it in the document.

    documents   ids, one array each, of any lengths
    cuts        bool [vocab_size], the tokens that end a segment (`siltstone.text.cut_table`)
    Yields (indices of `batch` documents or fewer, position p of the first input, nats float64 [B, n]): column c is about
    the token at position p + 1 + c, NaN where a document has ended.
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
    """The cost of some text: nats in all, tokens predicted, and the bytes these stand for."""

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Bits of information a byte of text; NaN without bytes."""
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
    """The cost of all documents together; None when `stop()` came true on the way.

    sizes   [vocab_size] bytes that each id stands for, or a sequence: bytes of text behind each document's ids but its first
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
