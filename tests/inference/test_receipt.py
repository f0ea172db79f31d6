"""Counting: times in bounded memory, spans of checkpoints, what a transformer would take."""

from __future__ import annotations

from typing import Any

import pytest

import siltstone as st
from siltstone.inference.receipt import Timeline, bytes_of_a_token, growth, human, kv_cache_bytes, peak_rss, receipt, spans
from siltstone.text import ByteTokenizer


def test_timeline() -> None:
    line = Timeline(most=64)
    assert line.ms_per_token() is None
    for i in range(50_000):
        line.add(3, 3e-3 * (1 + i / 50_000))  # from 1 to 2 ms a token
    assert line.tokens == 150_000 and len(line.spans) <= 65
    first, last = line.ms_per_token(), line.ms_per_token(last=True)
    assert first == pytest.approx(1.05, abs=0.02) and last == pytest.approx(1.95, abs=0.02)
    assert line.ms_per_token(1.0) == pytest.approx(1.5, abs=1e-3)


def test_kv_cache() -> None:
    cfg = st.presets.nano(259, value_dim=16)  # 3 blocks, 3 heads, keys of 32
    assert kv_cache_bytes(cfg, 1000, 4) == 3 * 3 * (32 + 16) * 4 * 1000
    cfg = cfg.replace(kv_heads=1, layers={"0": {"kv_heads": 3}})
    assert kv_cache_bytes(cfg, 1000, 4) == (3 + 1 + 1) * (32 + 16) * 4 * 1000


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"segments": "constant"}, "O(t/C)"),
        ({"segments": "logarithmic"}, "O(log t)"),
        ({"cache": "none"}, "O(1)"),
        ({"cache": "exact"}, "O(1)"),
        ({"pattern": "w"}, "O(1)"),
        ({"pattern": "ma", "segments": "logarithmic"}, "O(t)"),
        (
            {"layers": {"1": {"segments": "constant", "segment": 32}}},
            "O(t/C): one checkpoint every C = 32 tokens (train with max_checkpoints",
        ),
        ({"segments": "logarithmic", "layers": {"1": {"segments": "content"}}}, "O(cuts + t/C)"),
        ({"cache": "none", "layers": {"2": {"cache": "gated"}}}, "O(log t)"),
        ({"pattern": "mmw", "cache": "none", "layers": {"2": {"window": 32}}}, "O(1)"),
        ({"segments": "constant", "max_checkpoints": 4}, "O(1)"),
        (
            {
                "cache": "none",
                "layers": {"0": {"cache": "blocks", "segments": "constant", "segment": 32, "router": "subblock:2"}},
            },
            "O(t): blocks have the keys and values of every token",
        ),
    ],
)
def test_growth(keys: dict[str, Any], words: str) -> None:
    assert growth(st.presets.nano(259, **keys)).startswith(words if ":" in words else words + ":")


@pytest.mark.parametrize(
    "keys",
    [{}, {"sinks": 3, "rate": 2, "compress": "mean"}, {"write_delay": 0}, {"cache": "none"}, {"cache": "exact"}, {"phase": 5}],
)
@pytest.mark.parametrize("segments", ["constant", "logarithmic"])
def test_spans_are_those_of_the_state(make_model: Any, tok: Any, segments: str, keys: dict[str, Any]) -> None:
    keys = {"segments": segments, "depth": 1} | keys
    phase = keys.pop("phase", 0)
    model = make_model(**keys)
    s = st.Session(model, tok)
    s._state = model.init_state(1, phase=[phase])
    layer, position = model.cfg.layer, 0
    for step in (1, 7, 12, 1, 1, 60, 3, 8):
        s.append([65] * step)
        position += step
        found = spans(layer, position, phase)
        edges = [a for a, _ in found] + [b for _, b in found[-1:]]
        assert all(a < b for a, b in found) and edges == sorted(set(edges))
        written = layer.sinks + max(0, position - layer.delay - layer.sinks) // layer.rate * layer.rate
        assert not found or (found[0][0] == layer.sinks and written - layer.segment <= found[-1][1] < written)
        if segments == "constant" and layer.cache not in ("none", "exact"):
            assert [len(found)] == s._state.checkpoints()[0].tolist()


def test_spans_of_a_logarithmic_session() -> None:
    layer = st.presets.nano(259, segments="logarithmic", segment=10, window=5).layer
    assert spans(layer, 5 + 37 * 10 + 1) == [(0, 320), (320, 360), (360, 370)]


def test_receipt(session: st.Session) -> None:
    mark = session.snapshot()
    session.append("ab")
    session.rollback(mark.position + 1)
    line = Timeline()
    line.add(10, 0.02)
    found = receipt(session, 41, 40, 38, 80.0, line)
    assert (found.appended, found.restored, found.recomputed) == (mark.position + 2, 0, 1)
    assert found.bits_per_byte == 2.0 and found.ms_per_token_first == 2.0 and found.session_bytes == session.nbytes
    assert found.position == mark.position + 1 and len(found.rows()) == 8 and set(found.to_dict()) >= {"growth", "peak_rss"}
    peak = peak_rss()
    assert peak is None or peak > 2e7


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e7, "20.0 MB"), (5e13, "50.0 TB")])
def test_human(size: float, text: str) -> None:
    assert human(size) == text


def test_growth_and_bytes_of_blocks() -> None:
    """Bytes a token are what a longer state has more, with every kind of rounding."""
    keys = dict(cache="blocks", segment=8, window=4, top_k=2, cache_options=dict(route_every=8), value_dim=16)
    for kind in ("float32", "bfloat16", "int8"):
        cfg = st.presets.nano(259, checkpoint_dtype=kind, segments="constant", **keys)
        assert growth(cfg).startswith("O(t): blocks")
        assert growth(cfg.replace(max_checkpoints=3)) == "O(1): a budget of blocks"
        session = st.Session(st.LM(cfg).eval(), ByteTokenizer())
        session.append("a" * 88)
        before, each = session.nbytes, bytes_of_a_token(cfg)
        session.append("b" * 80)
        assert each is not None and session.nbytes - before == 80 * each
        found = receipt(session, 168, 167, 168, 1.0, Timeline())
        assert found.block_bytes_per_token == each and ("blocks", f"{human(each)} a token") in found.rows()
