"""Which parts answered: against what sessions say, for parts that are silent, and a name that was told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.doctor import answered as module
from siltstone.doctor import told
from siltstone.doctor.answered import answered, heard
from siltstone.doctor.findings_of_parts import part_findings, told_findings
from siltstone.eval.tasks.reader import Reader
from siltstone.layers import step
from tests.cli.commands import good, refused

from .conftest import IDS, make

BLOCKS: dict[str, Any] = dict(
    pattern="m", cache="blocks", router="subblock:2", top_k=2, sinks=2, kv_heads=1, cache_options={"route_every": 8}
)


def warnings(rows: list[dict[str, Any]]) -> list[str]:
    return [f.text for f in part_findings(rows) if f.level == "warning"]


def test_the_share_of_blocks_is_what_sessions_say() -> None:
    model = make(**BLOCKS)
    s, found = st.Session(model, st.ByteTokenizer()), []
    s.append(IDS[:90].tolist())
    seen = 90
    s.watch()
    with heard(model, lambda layer, sums: found.append(sums), lambda: seen):
        for token in IDS[90:104].tolist():
            seen += 1
            s.append([token])
    said = s.attended()
    assert said is not None and len(found) == 28 and [*found[0]] == ["sinks", "blocks", "window"]
    assert sum(weight for _, _, weight in said) == pytest.approx(sum(float(x["blocks"][0].sum()) for x in found), rel=1e-5)
    assert "attend" not in vars(model.blocks[0].mix.window)  # type: ignore[arg-type]


def test_shares_are_of_one() -> None:
    rows = answered(make(**BLOCKS), IDS[None, :120])
    assert [row["layer"] for row in rows] == [0, 1] and all(row["tokens"] == 64 for row in rows)
    for row in rows:
        assert sum(row["mass"]) == pytest.approx(1, rel=1e-5) and sum(row["output"]) == pytest.approx(1, rel=1e-5)
        assert min(row["most"]) > 0.01 and row["parts"] == ["sinks", "blocks", "window"]
    assert not warnings(rows)
    (short, *_) = answered(make(**BLOCKS), IDS[None, :10])
    assert short["parts"] == ["sinks", "window"] and warnings([short]) == ["no token had a block to attend to"]


@pytest.mark.parametrize("part", ["memory", "window", "bank"])
def test_a_part_of_a_memory_layer_that_is_silent(part: str) -> None:
    model = make()
    both = answered(model, IDS[None, :80])
    assert [row["parts"] for row in both] == [["window", "memory", "bank"]] * 2
    assert both[0]["mass"] is None and not warnings(both)
    with torch.no_grad():
        for block in model.blocks:
            if part == "memory":
                block.mix.norm.zero_()  # type: ignore[operator]
            elif part == "bank":
                block.mix.router.bias.fill_(-1e4)  # type: ignore[operator, union-attr]
            else:
                block.mix.window.qkv.weight[-block.mix.cfg.key_heads * block.mix.cfg.val_dim :] = 0  # type: ignore
    rows = answered(model, IDS[None, :80])
    text, *more = warnings(rows)
    assert [x.split()[0] for x in more] == (["bank"] if part == "memory" else [])
    assert text.startswith(f"{part} never speaks") and rows[0]["output"][rows[0]["parts"].index(part)] < 1e-6


@pytest.mark.parametrize(
    "keys",
    [dict(cache="gated"), dict(cache="residual"), dict(cache="sparse", top_k=1), dict(cache="gated", gate="softmax"),
     dict(cache="soup"), dict(cache="gated", segments="logarithmic"), dict(cache="gated", memory="deep"),
     dict(cache="gated", cache_options={"exact": 4}, memory="gated_delta")],
    ids=str,
)  # fmt: skip
def test_parts_of_a_memory_layer_are_its_output(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sum is the output of the heads, and without checkpoints what is left of it is that of a layer without the bank."""
    model = make(sinks=2, depth=1, **keys)
    (block,) = model.blocks
    read, bank, heads, mixer = [], [], [], block.mix
    cached, reading = step._cached, step._read

    def without(*given: Any) -> torch.Tensor:
        bank.append(cached(*given))
        return torch.zeros_like(bank[-1])

    monkeypatch.setattr(module.Tensor, "norm", lambda self, dim: self.clone(), raising=False)
    found: list[dict[str, Any]] = []
    mixer.out.register_forward_pre_hook(lambda _, given: heads.append(given[0][0, 0].unflatten(-1, mixer.norm.shape)))  # type: ignore
    _, state = model.features(IDS[None, :90])
    with torch.no_grad(), heard(model, lambda layer, sums: found.append(sums), lambda: 91):
        model.features(IDS[None, 90:91], state.fork())
    parts = {name: x for name, (_, x) in found[0].items()}
    assert [*parts] == ["window", "sinks", "bank", "memory"]
    torch.testing.assert_close(sum(parts.values()), heads[-1])
    monkeypatch.setattr(step, "_cached", without)
    monkeypatch.setattr(step, "_read", lambda *given: read.append(reading(*given)) or read[-1])
    with torch.no_grad():
        model.features(IDS[None, 90:91], state.fork())
    alone, told = read[0][0][0, 0], bank[0][0, :, 0]
    scale = mixer.norm / ((alone + told).square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(parts["bank"], told * scale)


def test_blended_checkpoints_are_no_part_of_their_own() -> None:
    (row,) = answered(make(depth=1, cache="soup", memory="deep"), IDS[None, :80])
    assert row["parts"] == ["window", "memory"]
    (row,) = answered(make(depth=1, cache="exact", memory="gated_delta"), IDS[None, :80])
    assert row["parts"] == ["window", "pairs", "memory"]


def test_blocks_that_are_silent() -> None:
    row = {"layer": 0, "blocks": True, "parts": ["sinks", "blocks", "window"], "tokens": 9, "mass": [0.5, 0.0, 0.5]}
    row |= {"output": [0.5, 0.0, 0.5], "most": [0.6, 0.004, 0.7]}
    assert warnings([row]) == ["blocks never speak: at most 0.40% in any head of 1 layer"]
    assert not warnings([row, row | {"most": [0.6, 0.3, 0.7]}])  # another layer uses them


def test_layers_without_parts() -> None:
    assert answered(make(pattern="a"), IDS[None, :40]) == [] and module.LAST == 64


def test_a_told_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that ranks what it was told first, within a reach."""

    def ranks(self: Reader, session: str, question: str, candidates: list[str]) -> Any:
        near = session[:20] if len(session) < 2000 else ""
        return torch.tensor([float(name.strip() in near) for name in candidates]).numpy()

    monkeypatch.setattr(Reader, "read", lambda self, text: text)
    monkeypatch.setattr(Reader, "ranks", ranks)
    rows = told.probe(make(), st.ByteTokenizer(), (0, 100, 4000))
    assert [row["distance"] for row in rows] == [0, 100, 4000] and rows[0]["told"] == rows[1]["told"] == rows[0]["texts"] == 4
    assert rows[2]["told"] <= 1 and all(row["not_told"] <= 1 for row in rows)
    assert [f.level for f in told_findings(rows)] == ["ok", "ok", "warning"]
    (guessed,) = told_findings([rows[0] | {"not_told": 3}])
    assert guessed.level == "warning" and "in 3 without the fact" in guessed.text


def test_the_command(tmp_path: Path) -> None:
    run, out = st.save(make(depth=1, **BLOCKS), st.ByteTokenizer(), tmp_path / "run"), tmp_path / "r.html"
    text = tmp_path / "a.txt"
    text.write_text("It was the best of rivers, it was the worst of rivers. " * 9, "utf-8")
    given = ["doctor", run, "--text", text, "--tokens", 60, "--out", out, "--told", "0,40"]
    found = json.loads(good(*given, "--json", "-q").stdout)
    assert [row["distance"] for row in found["told"]] == [0, 40] and found["answered"][0]["parts"][1] == "blocks"
    assert {f["area"] for f in found["findings"]} >= {"parts", "told", "equality"}
    page = out.read_text("utf-8")
    assert "Which parts answer" in page and "A name that was told" in page
    refused("--told 'far' must be whole numbers", *given[:-1], "far")
