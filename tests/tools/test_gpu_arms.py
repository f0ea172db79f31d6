"""The command that trains arms for a GPU, at toy size: in slices, arm by arm, and its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import write_texts


def test_arms_are_trained_on_the_same_tokens_and_compared(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = tool("gpu_arms")
    names = arms.NAMES
    texts, held_out = write_texts(tmp_path / "texts", (2500, 2500)), tmp_path / "held.txt"
    held_out.write_text("".join(f"He saw {i * 37 % 101} ships. " for i in range(120)), "utf-8")
    given = [str(texts), "--test", str(held_out), "--folder", str(tmp_path / "arms"), "--size", "toy", "--device", "cpu"]
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        assert arms.main([*given, "--slice", "0"]) == arms.UNFINISHED
        assert arms.main([*given, "--arm", "window only"]) == 0 and not (tmp_path / "arms/result.json").exists()
        first = (tmp_path / "arms/window-only/0/model.safetensors").read_bytes()
        assert arms.main(given) == 0
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    found = json.loads((tmp_path / "arms/result.json").read_text("utf-8"))
    assert (tmp_path / "arms/window-only/0/model.safetensors").read_bytes() == first
    assert [entry["name"] for entry in found["entries"]] == list(names)
    trained = [entry["trained"] for entry in found["entries"]]
    assert len({(one["steps"], one["tokens"]) for one in trained}) == 1 and trained[0]["steps"] == 3
    counts = [one["parameters"] for one in trained]
    assert max(counts) < 1.03 * min(counts)
    assert {row["task"] for entry in found["entries"] for row in entry["asked"]} == {"told_20", "repeats"}
    assert "window only" in (tmp_path / "arms/report.html").read_text("utf-8")
    assert "figures:" in capsys.readouterr().out


def test_the_arms_have_the_parameters_that_the_size_says(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arms, size = tool("gpu_arms"), tool("gpu_arms").SIZES["30m"]
    monkeypatch.setattr(arms, "NAMES", ("window only", "gated"))
    counts = [arms.parameters(cfg) for cfg in arms.configurations(size, size.vocabulary).values()]
    assert len(counts) == 2 and max(counts) < 1.002 * min(counts) and 30e6 < min(counts) and max(counts) < 150e6
