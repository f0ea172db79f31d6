"""The benchmark's arithmetic, and its rows at toy sizes."""

from __future__ import annotations

import time

import pytest
import torch
from typer.testing import CliRunner

from siltstone.bench import decoding, kept, layers, models, run
from siltstone.bench.run import cells, line
from siltstone.bench.timing import Row, interleaved
from siltstone.cli.app import app
from siltstone.models.lm import LM


def test_rounds_are_interleaved_and_warm_ones_not_counted() -> None:
    order: list[str] = []
    ms = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm=1, least_ms=0.0)
    assert order == ["a", "b"] * 4
    assert set(ms) == {"a", "b"} and all(x >= 0 for x in ms.values())


def test_short_calls_are_repeated_within_a_round() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    ms = interleaved({"short": lambda: call("short", 0.002), "long": lambda: call("long", 0.03)}, 1, warm=0, least_ms=20.0)
    assert order[-1] == "long" and order.count("long") == 1 and 2 <= order.count("short") <= 10
    assert 2 <= ms["short"] < 20 < ms["long"]


def test_targets_are_floors_or_ceilings() -> None:
    def row(ratio: float | None, at_most: bool = False) -> Row:
        return Row("x", 1, "fp32", 1.0, 2.0, ratio, 2.0, at_most=at_most)

    assert row(2.5).reached and not row(1.5).reached
    assert row(1.5, at_most=True).reached and not row(2.5, at_most=True).reached
    assert row(None).reached is None
    assert "missed" in line(row(1.5)) and cells(row(2.5))[-1] == "reached"


def test_a_missed_target_is_measured_by_the_prototype() -> None:
    def row(ratio: float) -> Row:
        return Row("x", 1, "fp32", 1.0, 2.0, ratio, 5.0, 2.0)

    assert [row(r).verdict for r in (5.0, 1.7, 1.5)] == ["reached", "as the prototype", "below the prototype"]


def test_the_transformer_of_the_same_size_has_as_many_parameters() -> None:
    ours, peer = models.pair(torch.float32, cache="sparse")
    assert abs(ours.parameters_count / peer.parameters_count - 1) < 0.01


def test_logarithmic_sessions_are_filled_too() -> None:
    model, _ = models.pair(torch.float32, cache="sparse", depth=1, d_model=32, heads=2, segments="logarithmic")
    state = models.at_position(model, 5000)
    with torch.no_grad():
        assert torch.isfinite(model(torch.zeros(1, 1, dtype=torch.long), state)[0]).all()
    assert state.checkpoints()[0][0] == 5  # 19 sealed segments take five places


def test_layer_rows_at_toy_sizes() -> None:
    rows = [*layers.against_package(1, 2, 32), *layers.against_attention(1, 2, torch.float32, 300, 300)]
    assert any("SDPA" in r.claim and r.ratio is not None and r.ratio > 0 for r in rows)


def test_a_filled_state_stands_where_it_says() -> None:
    ours, peer = models.pair(torch.float32, cache="sparse", depth=1, d_model=32, heads=2)
    for model in (ours, peer, LM(peer.cfg.replace(short_conv=3, kv_heads=1, position="alibi"))):
        state = models.at_position(model, 5000)
        with torch.no_grad():
            logits, after = model(torch.zeros(1, 1, dtype=torch.long), state)
        assert after.position[0] == 5001 and torch.isfinite(logits).all()
    assert models.at_position(ours, 5000).checkpoints()[0][0] == (5000 - 128 - 1) // 256


def test_ctrl_c_ends_the_benchmark_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layers, "against_package", interrupted)
    before = torch.get_num_threads()
    result = CliRunner().invoke(app, ["bench", "--quick", "--threads", "1"])
    assert (result.exit_code, result.stderr) == (130, "siltstone: interrupted\n")
    assert torch.get_num_threads() == before


def test_rounded_checkpoints_are_smaller_and_cost_next_to_nothing() -> None:
    rows = list(kept.rounded(3000, 1500))
    assert [row.dtype for row in rows] == ["bfloat16", "int8"]
    assert rows[0].ratio is not None and rows[1].ratio is not None and 1.5 < rows[0].ratio < 2 < rows[1].ratio < 4
    for row in rows:
        bits, against = (float(x) for x in row.note.split(";")[0].replace(" bits per byte against ", " ").split())
        assert 0 < against < 8 and abs(bits - against) < 1e-3


def test_a_quick_run_takes_each_costly_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers and models with the first number of threads, decoding with the last; rows of 8,192 tokens are among them."""
    calls: list[tuple[object, ...]] = []

    def noted(*path: str) -> None:
        def call(*given: object) -> list[Row]:
            calls.append((path[-1], *given))
            return []

        monkeypatch.setattr(f"siltstone.bench.{'.'.join(path)}", call)

    for module, names in (("layers", ("against_package", "against_attention")), ("models", ("prefill", "training"))):
        for name in names:
            noted(module, name)
    for path in ("decoding.decoding", "decoding.sessions", "models.session_bytes", "kept.rounded", "run.startup"):
        noted(*path.split("."))
    assert not list(run.rows(True, (2, 1)))
    threads = {name: [given[:1] for which, *given in calls if which == name] for name, *_ in calls}
    assert threads["prefill"] == [[2]] and threads["training"] == [[2]] * 2
    assert threads["decoding"] == threads["sessions"] == [[1]]
    assert [given[-1] for name, *given in calls if name in ("prefill", "training")] == [8192, 1024, 8192]
    assert all(given[1] == 1 for name, *given in calls if name == "training")


def test_positions_share_their_programs() -> None:
    model, _ = models.pair(torch.float32, cache="sparse", depth=1, d_model=32, heads=2)
    programs = decoding.Programs()
    assert programs.of(model, "compiled") is programs.of(model, "compiled") is not programs.of(model, "int8")
    assert programs.of(model, "eager") is None
