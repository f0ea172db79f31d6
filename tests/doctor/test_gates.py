"""The figures about gates are what they say, for gates that are known beforehand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.cache.base import ReadWeights, RouterScores
from siltstone.doctor.findings import all_findings
from siltstone.doctor.gates import EDGES, Call, survey, watched
from siltstone.layers.mixer import Mixer

from .conftest import IDS, make

GRADIENT = {"first": 1.0, "buckets": [{"from": 1, "to": 2, "all": 1.0, "memory": None}]}
ROWS = IDS.view(4, 100)


def blank(bias: float = 0.0, online: float = 0.0, **keys: Any) -> st.LM:
    """A model whose router scores all checkpoints the same: gates follow from the biases alone."""
    model = make(depth=1, **keys)
    router = model.blocks[0].mix.router  # type: ignore[union-attr]
    with torch.no_grad():
        router.query.weight.zero_()  # type: ignore[union-attr]
        router.bias.fill_(bias)  # type: ignore[union-attr]
        router.online.fill_(online)  # type: ignore[union-attr]
    return model


def gate_findings(model: st.LM, gates: list[dict[str, Any]]) -> list[Any]:
    return [f for f in all_findings(model.cfg, [], gates, GRADIENT) if f.area == "gates"]


@pytest.mark.parametrize("segments", ["constant", "logarithmic"])
def test_sigmoid_gates_that_are_known(segments: str) -> None:
    (found,) = survey(blank(bias=1.0, segments=segments), ROWS)
    gate = 1 / (1 + math.exp(-1))
    assert (found["layer"], found["cache"], found["gate"]) == (0, "gated", "sigmoid")
    assert found["tokens"] == 100 - (4 + 8)  # the token that brings the ninth write has the first checkpoint
    assert found["saturated"] == found["shut"] == found["open"] == 0.0
    assert found["online"] == 1.0 and found["online_by_head"] == [1.0, 1.0]
    assert found["entropy"] == pytest.approx(found["entropy_limit"], rel=1e-5)
    assert found["spread_by_head"] == pytest.approx([0, 0], abs=1e-6)
    assert sum(found["histogram"]) == pytest.approx(1)
    assert found["histogram"][next(i for i, e in enumerate(EDGES) if e > gate) - 1] == pytest.approx(1)
    for use in found["use_by_age"]:
        assert use["gate"] == pytest.approx(gate) and use["gate_by_head"] == pytest.approx([gate] * 2) and use["picked"] is None


def test_ages_are_counted_from_the_end_of_what_a_checkpoint_holds() -> None:
    """Gates that say which checkpoint they belong to: each comes out in the bucket of its age."""
    model = blank()

    def mix(router: Any, asked: RouterScores) -> ReadWeights:
        number = torch.arange(asked.scores.shape[-1]) / 100  # checkpoint n gets n / 100
        return ReadWeights(None, number.expand(len(asked.scores), 1, 2, -1).clone())

    model.blocks[0].mix.cache.mix = mix  # type: ignore[union-attr]
    (found,) = survey(model, ROWS)
    sums: dict[int, list[float]] = {}
    for t in range(100):
        for n in range((max(1, t + 1 - 4) - 1) // 8):  # sealed after token t
            age = (t + 1 - 8 * (n + 1)) / 8
            sums.setdefault(0 if age < 1 else 1 + int(math.log2(age)), []).append(n / 100)
    wanted = [sum(sums[b]) / len(sums[b]) for b in sorted(sums)]
    assert [u["gate"] for u in found["use_by_age"]] == pytest.approx(wanted, abs=1e-6)
    assert [(u["from"], u["to"]) for u in found["use_by_age"]] == [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16)]


def test_logarithmic_checkpoints_have_their_ages_too() -> None:
    model = blank(segments="logarithmic")

    def mix(router: Any, asked: RouterScores) -> ReadWeights:
        assert not asked.newest_last
        level = torch.arange(asked.scores.shape[-1]) / 100  # the slot of 2^l segments gets l / 100
        return ReadWeights(None, level.expand(len(asked.scores), 1, 2, -1).clone())

    model.blocks[0].mix.cache.mix = mix  # type: ignore[union-attr]
    (found,) = survey(model, ROWS)
    sums: dict[int, list[float]] = {}
    for t in range(100):
        number, end = (max(1, t + 1 - 4) - 1) // 8, 0
        for level in reversed(range(number.bit_length())):
            if number >> level & 1:
                end += 8 * 2**level
                age = (t + 1 - end) / 8
                sums.setdefault(0 if age < 1 else 1 + int(math.log2(age)), []).append(level / 100)
    assert [u["gate"] for u in found["use_by_age"]] == pytest.approx(
        [sum(sums[b]) / len(sums[b]) for b in sorted(sums)], abs=1e-6
    )


def test_softmax_gates_share_with_the_online_memory() -> None:
    (found,) = survey(blank(gate="softmax"), ROWS)
    numbers = [(max(1, t + 1 - 4) - 1) // 8 for t in range(100)]
    shares = [1 / (1 + n) for n in numbers if n]
    assert found["online"] == pytest.approx(sum(shares) / len(shares), rel=1e-5)
    assert found["entropy"] == pytest.approx(sum(math.log2(1 + n) for n in numbers if n) / len(shares), rel=1e-5)
    assert found["entropy"] == pytest.approx(found["entropy_limit"], rel=1e-5)
    (found,) = survey(blank(gate="softmax", online=30.0), ROWS)
    assert found["saturated"] == 1.0 and found["entropy"] == pytest.approx(0, abs=1e-4)


def test_a_sparse_cache_picks_the_most_recent_of_equals() -> None:
    (found,) = survey(blank(cache="sparse", top_k=2, bias=-1.0), ROWS)
    picked = {(u["from"], u["to"]): u["picked"] for u in found["use_by_age"]}
    assert picked[0, 1] == picked[1, 2] == 1.0
    assert 0 < picked[2, 4] < 0.5  # it is one of two for a few tokens only
    assert picked[4, 8] == picked[8, 16] == 0.0
    assert found["entropy_limit"] == 1.0 and found["entropy"] == pytest.approx(1.0)
    assert found["histogram"][3] == pytest.approx(1.0)  # 0.27; checkpoints that are not picked do not count


def test_layers_without_gates_are_left_out() -> None:
    found = survey(make(pattern="wma", depth=3), ROWS)
    assert [g["layer"] for g in found] == [1]
    for cache in ("none", "residual"):
        assert survey(make(cache=cache), ROWS) == []
    for keys in ({"pattern": "w"}, {"cache": "none"}, {"cache": "residual"}):
        model = make(**keys)
        (line,) = gate_findings(model, survey(model, ROWS))
        assert line.level == "ok" and "no gates" in line.text


def test_saturated_gates_are_noticed() -> None:
    for bias, word in ((60.0, "100.0% near 1"), (-60.0, "100.0% near 0")):
        model = blank(bias=bias)
        (line,) = gate_findings(model, survey(model, ROWS))
        assert line.level == "warning" and word in line.text and "router.bias" in line.advice
    model = blank(gate="softmax", online=60.0)
    (line,) = gate_findings(model, survey(model, ROWS))
    assert line.level == "warning" and "checkpoints are not read" in line.text


def test_a_router_that_makes_no_choice_is_noticed() -> None:
    model = blank()
    (line,) = gate_findings(model, survey(model, ROWS))
    assert line.level == "warning" and "the same weight" in line.text


def test_checkpoints_that_nobody_reads_are_noticed() -> None:
    model = blank(cache="sparse", top_k=1)
    lines = gate_findings(model, survey(model, ROWS))
    assert any("aged" in f.text and "4 to 8" in f.text and f.level == "warning" for f in lines)


def test_healthy_gates_are_ok() -> None:
    for keys in ({}, {"gate": "softmax"}, {"segments": "logarithmic"}):
        model = make(**keys)
        assert {f.level for f in gate_findings(model, survey(model, ROWS))} == {"ok"}


def test_a_text_without_a_checkpoint_is_said_to_be_short() -> None:
    model = make()
    found = survey(model, ROWS[:, :8])
    assert {f.level for f in gate_findings(model, found)} == {"warning"} and found[0]["tokens"] == 0


def test_watching_changes_nothing_and_passes_everything_through() -> None:
    model, seen = make(), []
    want = model(ROWS)[0]
    mixers = [b.mix for b in model.blocks if isinstance(b.mix, Mixer)]
    first = mixers[0].cache
    original = first.mix

    def extended(router: Any, asked: RouterScores, weight: Any = None) -> ReadWeights:
        assert weight == 3
        return original(router, asked)

    calls: list[tuple[int, Call]] = []
    with watched(model, lambda layer, call: calls.append((layer, call))):
        assert torch.equal(model(ROWS)[0], want)
        seen = list(calls)
    assert {layer for layer, _ in seen} == {0, 1} and seen[0][1].mix.gates is not None
    assert all("mix" not in vars(m.cache) for m in mixers) and torch.equal(model(ROWS)[0], want) and len(calls) == len(seen)
    first.mix = extended  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), watched(model, lambda layer, call: calls.append((layer, call))):
        first.mix(mixers[0].router, asked=RouterScores(torch.zeros(1, 1, 2), newest_last=False), weight=3)
        raise ZeroDivisionError
    assert first.mix is extended and calls[-1][1].asked.newest_last is False
