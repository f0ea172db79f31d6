"""The table of all update rules, at toy sizes."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from siltstone.bench import rules, run
from siltstone.bench.timing import Row, interleaved
from siltstone.cli.app import app
from siltstone.config import registry


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short calls are not repeated."""
    monkeypatch.setattr(rules, "interleaved", functools.partial(interleaved, warm=0, least_ms=0.0))


def test_every_member_has_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "AIMS", {("gated_delta", "forward", 12): 3.0})
    found = list(rules.against_attention(1, 1, 12))
    kept = [row for row in found if row.more]
    for which in ("forward", "forward + backward"):
        for family in registry.FAMILIES:
            rows = [row.more for row in kept if row.more["pass"] == which and row.more["family"] == family]
            assert [(more["member"], more["options"]) for more in rows] == registry.settings(family)
    for row in kept:
        assert row.ratio == row.more["against_attention"] and row.ours
        assert row.more["tokens_per_second"] == pytest.approx(12e3 / row.ours)
    (aimed,) = [row for row in found if row.target is not None]
    assert aimed.claim == "gated_delta, forward at 12: against SDPA alone" and aimed.verdict in ("reached", "missed")


def test_state_bytes_are_those_of_the_memory() -> None:
    found = [row.more for row in rules.against_attention(1, 1, 512) if row.more]
    sizes = {(more["family"], more["member"]): more["state_bytes"] for more in found}
    assert sizes["memory", "gated_delta"] == 4 * 4 * 32 * 32 and sizes["memory", "gru"] == 4 * 128
    state = 4 * 4 * 32 * 32  # a checkpoint: 448 written tokens seal one
    assert sizes["cache", "residual"] - sizes["cache", "none"] == state
    unfinished = 3 * 128 * (1 + 2)  # the tokens of a write, and their keys and values in the window
    assert sizes["compress", "identity"] + 4 * unfinished == sizes["compress", "mean"]


def test_attention_is_causal_and_has_as_many_heads() -> None:
    attention, x = rules.Attention(), torch.randn(1, 9, rules.WIDTH)
    late = torch.cat([x[:, :5], torch.randn(1, 4, rules.WIDTH)], 1)
    with torch.no_grad():
        torch.testing.assert_close(attention(late)[:, :5], attention(x)[:, :5])
        assert float((attention(late)[:, 5:] - attention(x)[:, 5:]).abs().max()) > 1e-3
    assert rules.alone("gated", {}).cfg.heads == rules.HEADS


@pytest.mark.parametrize(("package", "aims"), [("memory_caching", 4), ("titans_pytorch", 1)])
def test_a_rival_that_is_not_installed_is_named(package: str, aims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    measure = rules.against_package if package == "memory_caching" else rules.against_titans_pytorch
    found = list(measure(1, 1, 512))
    assert all("siltstone[bench]" in row.note and row.reached is None for row in found)
    assert sum(row.target is not None for row in found) == aims


def test_the_memories_of_the_package_are_as_wide_as_ours() -> None:
    found = list(rules.against_package(1, 1, 3))
    assert [row.claim.split(":")[0] for row in found] == [
        f"{rule}, {which} at 3" for rule in ("deep", "titans") for which in ("forward", "forward + backward")
    ]
    peer = rules._package("dla", "stopgrad", 3)
    if peer is None:
        assert all(row.ratio is None for row in found)
    else:
        assert all(row.ratio is not None and row.ratio > 0 for row in found)
        state = peer.backend.init_state(batch_size=1, num_heads=4, head_dim=32, device=torch.device("cpu"), dtype=torch.float32)
        ours = rules.alone("deep", {}).mix.memory
        assert state.weights[0].shape[1:] == ours.w_in.transpose(1, 2).shape


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")  # its own
def test_titans_pytorch_is_asked_for_the_same_tokens() -> None:
    found = list(rules.against_titans_pytorch(1, 1, 5))
    assert len(found) in (2, 4) and len({row.ratio is None for row in found}) == 1  # two without the package
    assert all(row.ratio is None or row.ratio > 0 for row in found) and (found[0].ratio is None) == (len(found) == 2)


def test_the_json_is_written_to_a_file_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = Row("x", 1, "fp32", 1.0, 2.0, 2.0, 3.0, more={"rule": "gated"})
    monkeypatch.setattr(run.rules, "rows", lambda quick, threads: iter([row]))
    out = tmp_path / "speed.json"
    result = CliRunner().invoke(app, ["bench", "--rules", "--quick", "--threads", "1", "--json-out", str(out)])
    assert result.exit_code == 0
    found = json.loads(result.stdout.splitlines()[-1])
    assert found == json.loads(out.read_text("utf-8"))
    assert found["rows"][0]["more"] == {"rule": "gated"} and found["rows"][0]["verdict"] == "missed"
    assert found["threads"] == [1] and found["quick"] and found["machine"] and found["date"]
