"""`Session.attended`: the blocks that tokens attended to, against the oracle of blocks."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.inference import runtime as runtimes
from siltstone.inference.program import CompiledStep
from siltstone.text import ByteTokenizer

from ..contract.common import generic, weights
from ..oracle import lm as oracle_lm
from ..oracle.blocks import BlocksRow
from ..oracle.window import rotate

KEYS: dict[str, Any] = dict(
    vocab_size=259, d_model=8, heads=4, head_dim=2, kv_heads=2, value_dim=3, window=3, sinks=2, depth=3, pattern="mwm",
    cache="blocks", segment=4, router="subblock:2", top_k=2, cache_options=dict(router_queries=3, route_every=4),
    mlp="gelu", mlp_dim=8, tie=True,
)  # fmt: skip
TEXT = "In the beginning there were forty-one bytes."
Span = tuple[int, int]


class Seen(BlocksRow):
    """Notes the attention mass times the norm of the value of each chosen block, for every token."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.log: list[dict[Span, float]] = []

    def attended(self, q_HK: torch.Tensor) -> torch.Tensor:
        size, sinks = self.cfg["segment"], self.cfg["sinks"]
        found: dict[Span, float] = {}
        for h in range(self.H):
            j = h // self.group
            seen = self.buffer(j)
            n = len(seen)
            turned = [rotate(q_HK, n - 1 - i, self.cfg)[h] for i in range(n)]
            logits = [(q_K * k_JK[j]).sum() / math.sqrt(self.K) for q_K, (k_JK, _) in zip(turned, seen, strict=True)]
            mass = torch.softmax(torch.stack(logits), 0)
            for place, block in enumerate(self.chosen[j]):
                span = sinks + block * size, sinks + (block + 1) * size
                for i in range(len(self.first) + place * size, len(self.first) + (place + 1) * size):
                    found[span] = found.get(span, 0.0) + float(mass[i] * seen[i][1][j].norm())
        self.log.append(found)
        return super().attended(q_HK)


def truth(model: Any, ids: list[int], monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[dict[Span, float]]:
    """For each token, the weight of each span, summed over heads and layers."""
    monkeypatch.setattr(oracle_lm, "BlocksRow", Seen)
    reader = oracle_lm.Reader(
        model.cfg.to_dict() | {"memory": "linear"} | more, {n: p.detach() for n, p in weights(model).items()}
    )
    for token in ids:
        reader.step(token)
    logs = [row.log for row in reader.rows if isinstance(row, Seen)]
    assert len(logs) == 2
    return [summed([log[t] for log in logs]) for t in range(len(ids))]


def summed(parts: list[dict[Span, float]]) -> dict[Span, float]:
    found: dict[Span, float] = {}
    for part in parts:
        for span, weight in part.items():
            found[span] = found.get(span, 0.0) + weight
    return found


def same(found: list[tuple[int, int, float]] | None, want: dict[Span, float]) -> None:
    assert found is not None
    assert {(first, end) for first, end, _ in found} == want.keys()
    assert [weight for *_, weight in found] == sorted((weight for *_, weight in found), reverse=True)
    for first, end, weight in found:
        assert weight == pytest.approx(want[first, end], rel=1e-9)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return generic(st.LM(st.LMConfig.from_dict(KEYS))).eval().requires_grad_(False)


def read(model: Any, ids: list[int], runtime: str = "eager") -> st.Session:
    s = st.Session(model, ByteTokenizer(), runtime)
    s.append(ids)
    return s


IDS = ByteTokenizer().encode(TEXT)


@pytest.mark.parametrize("length", [0, 1, 5, 9, 12, 13, 24, 38, 39, 40, 41, 44])
def test_the_last_tokens_read(model: Any, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a watch: the last ones, up to `router_queries`, since the last choice."""
    seen = truth(model, IDS[:length], monkeypatch)
    last = max(0, length - 3, (length - 1) // 4 * 4)
    same(read(model, IDS[:length]).attended(), summed(seen[last:length]))


def test_tokens_that_choose_for_themselves(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token of a call; while it is watched, every token that is read alone."""
    s = read(model, IDS[:17])
    seen = truth(model, IDS, monkeypatch, asking=17)
    s.asking = True
    s.append(IDS[17:30])
    same(s.attended(), seen[29])
    s.watch()
    for t in range(30, 36):
        s.append(IDS[t : t + 1])
    same(s.attended(), summed(seen[30:36]))


@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_what_is_read_and_written_while_it_is_watched(model: Any, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one token are all counted, on the fork alone; nothing that is computed changes."""
    monkeypatch.setattr(runtimes, "CompiledStep", partial(CompiledStep, backend="eager"))
    s = read(model, IDS[:20], runtime)
    fork, other = s.fork(), s.fork()
    fork.watch()
    assert fork.attended() == []
    fork.append(IDS[20:28])
    other.append(IDS[20:28])
    for one in IDS[28:40]:
        fork.append([one])
        other.append([one])
    assert fork.logits is not None and other.logits is not None
    torch.testing.assert_close(fork.logits, other.logits, rtol=0, atol=0)
    same(fork.attended(), summed(truth(model, IDS[:40], monkeypatch)[25:]))
    assert fork.fork().attended() == other.attended() != fork.attended()
    assert s.attended() == read(model, IDS[:20], runtime).attended()


def test_going_back_begins_a_new_record(model: Any) -> None:
    s = read(model, IDS[:24])
    s.watch()
    mark = s.snapshot()
    s.append(IDS[24:32])
    assert s.attended()
    s.rollback(mark)
    assert s.attended() == []


def test_none_without_blocks() -> None:
    torch.manual_seed(0)
    s = st.Session(st.LM(st.LMConfig.from_dict(KEYS | {"pattern": "w"})), ByteTokenizer(), "eager")
    s.watch()
    s.append(IDS)
    assert s.attended() is None
