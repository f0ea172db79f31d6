"""torch.compile: a compiled model is the eager one, and is so at once."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import pytest
import torch

import siltstone as st

from .models import decoded, model, some_ids

CASES: list[dict[str, Any]] = [
    {},
    {"memory": "deep", "cache": "soup", "memory_options": {"inner_batch": 2}},
    {"pattern": "mwa", "depth": 3},
]


@pytest.fixture(autouse=True)
def compiler() -> None:
    with warnings.catch_warnings():  # of what torch imports
        warnings.simplefilter("ignore")
        import torch._dynamo
    torch._dynamo.reset()


@pytest.mark.parametrize("keys", CASES)
def test_a_compiled_model_trains_and_decodes_as_the_eager_one(keys: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    lm, ids, begun, graphs = model(keys), some_ids(), time.monotonic(), []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    with caplog.at_level(logging.WARNING, "siltstone"):
        compiled = torch.compile(lm, backend=backend)
        for tokens in (13, 7, 1):
            grads = []
            for one in (compiled, lm):
                y, _ = one(ids[:, :tokens])
                grads.append([y, *torch.autograd.grad(y.square().sum(), list(lm.parameters()))])
            assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))
        assert torch.equal(decoded(compiled, ids), decoded(lm, ids))
        hidden = torch.compile(lm.features, backend=backend)(ids)[0]
        assert torch.equal(hidden, lm.features(ids)[0])
    assert not graphs  # nothing of a call is compiled
    assert time.monotonic() - begun < 20
    assert sum("run eagerly" in record.message for record in caplog.records) <= 1


def test_it_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from siltstone.ops import eager

    monkeypatch.setattr(eager, "_known", {})
    layer = st.MemoryCaching(8, heads=2)
    compiled, x = torch.compile(layer, backend="eager"), torch.randn(1, 5, 8)
    with caplog.at_level(logging.WARNING, "siltstone"):
        for _ in range(3):
            assert torch.equal(compiled(x)[0], layer(x)[0])
    assert [record.message for record in caplog.records if record.name == "siltstone"] == [
        "torch.compile does not compile Siltstone's models: their calls are scheduled on the host, and run eagerly"
    ]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at that of what a part is given
@pytest.mark.parametrize("part", ["block", "mix"])
def test_parts_that_are_compiled_one_by_one(part: str) -> None:
    lm, ids, graphs = model({"pattern": "mwa", "depth": 3}), some_ids(), []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    want = lm(ids)[0]
    for block in lm.blocks:
        (block if part == "block" else block.mix).compile(backend=backend)
    assert torch.equal(lm(ids)[0], want)
    assert not graphs
