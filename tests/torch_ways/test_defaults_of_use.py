"""Sessions, batches, tasks and the laboratory do on any default device and dtype of torch what they do without."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.eval.arms import route_at_random
from siltstone.eval.costs import costs
from siltstone.eval.run import evaluate, make
from siltstone.inference.program import CompiledStep
from siltstone.text import ByteTokenizer
from siltstone.train.lab import run_lab, smoke

from .test_defaults import default

TEXT = "A text with some words.\n" * 3
DEFAULTS = [("meta", torch.float32), ("cpu", torch.float64), ("meta", torch.bfloat16)]


RUNTIMES = ["eager", "compiled", "int8"]


def lm() -> st.LM:
    torch.manual_seed(0)
    return st.LM(st.presets.nano(259, depth=2, d_model=32, heads=2, window=4, segment=4, segments="content")).eval()


def used(model: st.LM, runtime: str, path: Path) -> list[Any]:
    """What every call of a session and of a batch gives."""
    tok, got = ByteTokenizer(), []
    session = st.Session(model, tok, runtime)
    session.append(TEXT)
    got += [session.append_scored("more"), session.score("and more")]
    mark = session.snapshot()
    every: list[dict[str, Any]] = [dict(seed=1), dict(temperature=0.0), dict(seed=2, top_k=5), dict(top_p=0.5), dict(stop=["a"])]
    for options in every:
        got.append("".join(session.generate(5, **options)))
    session.rollback(mark)
    session.save(path, overwrite=True)
    again, batch = st.Session.load(path, model, tok, runtime), st.Batch(model, tok, runtime=runtime)
    one, two = batch.join(again), batch.join()
    got += [one.append_scored("x"), two.append_scored(TEXT), one.generate(5, seed=1).result(), two.fork().generate(5).result()]
    return [*got, session.logits, again.logits]


@pytest.mark.parametrize(("device", "kind", "runtime"), [(*x, name) for x, name in zip(DEFAULTS, RUNTIMES, strict=True)])
def test_sessions(device: str, kind: torch.dtype, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledStep, "_compile", lambda self, function: function)
    begin = CompiledStep.__init__  # which program is ready in time must not decide: other rooms round differently
    monkeypatch.setattr(CompiledStep, "__init__", lambda self, model, wait, **keys: begin(self, model, "all", **keys))
    want = used(lm(), runtime, tmp_path / "a.silt")
    model = lm()
    with default(device, kind):
        got = used(model, runtime, tmp_path / "a.silt")
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x.nan_to_num(), y.nan_to_num()) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize(("device", "kind"), DEFAULTS[:2])
def test_tasks(device: str, kind: torch.dtype, tmp_path: Path) -> None:
    """On a model of the laboratory with routing at random, which is put into it again."""
    lab = dataclasses.replace(smoke(), arms=("sparse, random routing",), items=2)
    run_lab(lab, tmp_path)
    model, tok = st.load(tmp_path / "sparse-random-routing" / "0")
    tasks = [make("mqar", lab.options), make("told_20"), make("repeats")]

    def found() -> list[Any]:
        route_at_random(model, 0)
        return [evaluate(model, tok, tasks, [32], 1, 1)]

    want = found()
    with default(device, kind):
        got = found()
    assert got == want


def test_a_laboratory_in_another_default_dtype(tmp_path: Path) -> None:
    """Models are made where torch says, and costs are counted there."""
    lab = dataclasses.replace(smoke(), arms=("sparse, random routing",), items=2)
    with default("cpu", torch.float64):
        assert run_lab(lab, tmp_path)["runs"][0]["steps"] == 4
    with default("meta", torch.float32):
        assert costs(lab.config(), 32)["flops"] > 0
