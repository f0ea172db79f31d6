"""Long runs, shortened: every rule is read, and what does not hold is found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from siltstone.config import registry
from siltstone.memory.gated import Gated
from siltstone.memory.min_gru import MinGRU


@pytest.fixture(scope="module")
def soak(tool: Any) -> Any:
    return tool("soak")


def test_every_rule_and_variant_is_read(soak: Any) -> None:
    found = soak.runs()
    assert {run.rule for run in found} == set(registry.members("memory"))
    assert {"delta, negative, carry, bfloat16", "gated, decay=channel, restart, float32"} <= {run.name for run in found}
    assert len(found) == 4 * len(registry.settings("memory"))


@pytest.mark.parametrize(("rule", "options"), registry.settings("memory"), ids=lambda x: str(x))
def test_steps_agree_with_chunks(soak: Any, rule: str, options: dict[str, Any]) -> None:
    for start in ("carry", "restart"):
        for row in soak.soak(soak.Run(rule, options, start, "float32"), 60):
            assert row["lost"] is None and row["apart"] <= soak.TOLERANCE["float32"], row


@pytest.mark.parametrize("rule", registry.members("memory"))
def test_states_stay_float32_under_bfloat16_weights(soak: Any, rule: str) -> None:
    layer = soak.Run(rule, {}, "carry", "bfloat16").layer()
    with torch.no_grad():
        y, state = layer(next(soak.text(60)).bfloat16())
    assert y.dtype == torch.bfloat16
    assert all(x.dtype == torch.float32 for name, x in state.tensors().items() if ".online." in name)


def test_the_texts_are_noise_and_one_token(soak: Any) -> None:
    parts = list(soak.text(10_000))
    assert parts[-1].shape[1] == soak.TAIL and sum(x.shape[1] for x in parts) == 10_000
    whole = torch.cat(parts, 1)
    assert (whole[1] == whole[1, :1]).all() and abs(float(whole[0].std()) - 1) < 0.05
    assert not torch.equal(parts[0][0], parts[1][0])


def test_a_state_that_runs_away_is_found(soak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Gated.inputs
    monkeypatch.setattr(Gated, "inputs", lambda self, c: plain(self, c) | {"decay": torch.ones(*c.shape[:2], 2)})
    for row in soak.soak(soak.Run("gated", {}, "carry", "float32"), 400):
        assert 80 <= row["lost"] <= 120 and row["verdict"].startswith("not finite")  # e^88 is the end of float32


def test_a_state_that_grows_is_found(soak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(self: MinGRU, c: torch.Tensor) -> dict[str, torch.Tensor]:
        new = self.parts(c)[1].abs()
        return {"keep": torch.ones_like(new), "new": new}

    monkeypatch.setattr(MinGRU, "inputs", growing)
    for row in soak.soak(soak.Run("min_gru", {}, "carry", "float32"), 400):
        assert row["growth"] == pytest.approx(2, abs=0.2) and row["verdict"].startswith("grows")


def test_a_wrong_step_is_found(soak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = MinGRU.step
    monkeypatch.setattr(MinGRU, "step", lambda *given: plain(*given).map(lambda x: x * 1.001))
    for row in soak.soak(soak.Run("min_gru", {}, "carry", "float32"), 60):
        assert row["verdict"].startswith("steps differ")


def test_results_are_written_and_taken_up_again(soak: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tokens", "40", "--out", str(tmp_path)]
    soak.main([*words, "--rules", "gru"])
    path = tmp_path / "soak.json"

    def rows() -> list[dict[str, Any]]:
        return json.loads(path.read_text("utf-8"))["rows"]

    first = rows()
    assert len(first) == 8
    first[0]["apart"] = 0.5  # what is kept is not measured again
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"rows": first}), "utf-8")
    soak.main([*words, "--rules", "gru,min_gru", "--resume"])
    assert rows()[:8] == first and len(rows()) == 16
    table = (tmp_path / "soak.md").read_text("utf-8")
    assert table.count("\n| gru |") == 8 and table.count("\n| min_gru |") == 8
    soak.main(["--tokens", "42", "--out", str(tmp_path), "--rules", "gru", "--resume"])  # another length: from the beginning
    assert len(rows()) == 8
    assert "the table is" in capsys.readouterr().out
