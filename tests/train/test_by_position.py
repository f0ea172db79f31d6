"""Bits per byte by position, and documents streamed side by side."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from siltstone.errors import DataError, InputError
from siltstone.eval import by_position, score_documents, stream_nats
from siltstone.models.lm import LM
from siltstone.text import ByteTokenizer

from .conftest import configure


@pytest.fixture(scope="module")
def model() -> LM:
    torch.manual_seed(0)
    return LM(configure(259)).eval()


TEXTS = ["one two three four five six seven " * 6, "é" * 150, "short", "lorem ipsum dolor sit amet " * 9]


def alone(model: LM, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits, _ = model(torch.tensor([ids[:-1]]))
    return torch.nn.functional.cross_entropy(logits[0].float(), torch.tensor(ids[1:]), reduction="none").double().numpy()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chunk", [37, 1000])
def test_streaming_side_by_side_is_each_document_alone(model: LM, batch: int, chunk: int) -> None:
    documents = [np.array(ByteTokenizer().encode(t)) for t in TEXTS]
    nats = [np.full(len(d), np.nan) for d in documents]
    for rows, start, found in stream_nats(model, documents, chunk, batch):
        for r, i in enumerate(rows):
            good = np.isfinite(found[r])
            nats[i][start + 1 : start + 1 + good.sum()] = found[r][good]
    for i, d in enumerate(documents):
        assert np.isnan(nats[i][0])
        np.testing.assert_allclose(nats[i][1:], alone(model, d.tolist()), atol=2e-4)
    sizes = np.array([1] * 256 + [0] * 3)
    score = score_documents(model, documents, sizes, chunk, batch)
    assert score is not None
    assert score.tokens == score.bytes == sum(len(d) - 1 for d in documents)
    assert score.bits_per_byte == pytest.approx(sum(np.nansum(n) for n in nats) / math.log(2) / score.bytes, rel=1e-6)
    assert score_documents(model, documents, sizes, stop=lambda: True) is None


def test_buckets(model: LM) -> None:
    found = by_position(model, ByteTokenizer(), TEXTS, length=200, chunk=33, batch=2)
    assert json.loads(json.dumps(found)) == found
    assert found["documents"] == 3
    assert found["left_out"] == 1
    assert [(b["from"], b["to"]) for b in found["buckets"]] == [(0, 64), (64, 128), (128, 200)]
    assert [b["tokens"] for b in found["buckets"]] == [3 * 63, 3 * 64, 3 * 72]
    long = [ByteTokenizer().encode(t)[:200] for t in TEXTS if len(t.encode()) >= 200]
    nats = np.stack([alone(model, ids) for ids in long]) / math.log(2)
    assert found["buckets"][1]["bits_per_byte"] == pytest.approx(nats[:, 63:127].mean(), rel=1e-5)
    assert found["buckets"][2]["each"] == pytest.approx(nats[:, 127:].mean(1).tolist(), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats.mean(), rel=1e-5)


def test_own_buckets_and_default_length(model: LM) -> None:
    found = by_position(model, ByteTokenizer(), TEXTS, buckets=[0, 2, 100])
    assert found["length"] == 5
    assert [(b["from"], b["to"], b["tokens"]) for b in found["buckets"]] == [(0, 2, 4), (2, 5, 12)]


def test_bad_arguments(model: LM) -> None:
    with pytest.raises(DataError, match="the longest of 4 has 300"):
        by_position(model, ByteTokenizer(), TEXTS, length=301)
    with pytest.raises(DataError):
        by_position(model, ByteTokenizer(), [])
    with pytest.raises(InputError, match="ascending"):
        by_position(model, ByteTokenizer(), TEXTS, buckets=[3, 2])
