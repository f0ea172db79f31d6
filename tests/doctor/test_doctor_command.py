"""`siltstone doctor`, as it is used: a healthy run, a broken one, damaged files, Ctrl-C; its report and its JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import siltstone as st
from siltstone.cli.app import app
from siltstone.doctor import examine, report
from siltstone.doctor.equality import WAYS
from siltstone.doctor.run import tokens_wanted
from siltstone.memory.gated import Gated

from .conftest import IDS, make

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "br", "line", "circle", "path", "rect"}


def doctor(*words: Any) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, words)])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("It was the best of rivers, it was the worst of rivers; and all of it flowed on. " * 8, "utf-8")
    return path


def test_a_healthy_run(run: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    before = (run / "model.safetensors").read_bytes()
    result = doctor(run, "--text", text, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    lines = result.stdout.splitlines()
    assert all(line.startswith(("ok ", "warning ")) for line in lines[:-1]) and str(out) in lines[-1]
    assert f"{len(WAYS)} ways of reading agree in float64" in result.stdout
    assert "reading 41 tokens in 10 ways, float32" in result.stderr and "gates, over" in result.stderr
    page = out.read_text("utf-8")
    assert page.startswith("<!doctype html>") and "text.txt" in page and page.count("<svg") >= 4
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")] and (run / "model.safetensors").read_bytes() == before


def test_json(run: Path, text: Path, tmp_path: Path) -> None:
    result = doctor(run, "--text", text, "--json", "--quiet", "--seed", "3", "--out", tmp_path / "r.html")
    assert result.exit_code == 0 and result.stderr == ""
    found = json.loads(result.stdout)
    assert list(found) == ["ok", "findings", "facts", "equality", "gates", "gradient", "answered", "told"] and found["ok"] is True
    assert all(set(f) == {"level", "area", "text", "advice"} for f in found["findings"])
    assert {f["area"] for f in found["findings"]} == {"equality", "gates", "gradient", "parts"}
    keys = {"way", "dtype", "difference", "tolerance", "token", "tokens", "of", "same_bits", "cuts", "ok"}
    assert len(found["equality"]) == 2 * len(WAYS) and all(set(c) == keys for c in found["equality"])
    assert [g["layer"] for g in found["gates"]] == [0, 1]
    assert {"saturated", "entropy", "entropy_limit", "online", "histogram", "use_by_age"} <= set(found["gates"][0])
    assert set(found["gradient"]) == {"places", "first", "buckets"}
    assert set(found["gradient"]["buckets"][0]) == {"from", "to", "all", "memory"}
    assert found["facts"]["run"] == "run" and found["facts"]["seed"] == 3 and found["facts"]["tokens"]["equality"] == 41
    again = json.loads(doctor(run, "--text", text, "--json", "--seed", "3", "--out", tmp_path / "r.html").stdout)
    assert {k: v for k, v in again.items() if k != "facts"} == {k: v for k, v in found.items() if k != "facts"}


def test_a_broken_model_is_exit_code_1(run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Gated.step

    def step(self: Gated, inputs: dict[str, Any], shift: int, state: Any) -> Any:
        return real(
            self, inputs, shift, state.map(lambda x: x.narrow(-1, 0, x.shape[-1] - 1).repeat(1, 1, 1, 2)[..., : x.shape[-1]])
        )

    monkeypatch.setattr(Gated, "step", step)
    result = doctor(run, "--text", text, "--out", tmp_path / "r.html")
    assert result.exit_code == 1
    assert result.stdout.startswith("failure  equality") and "failure  equality  a token a call (float64)" in result.stdout
    assert "padding on the left" not in result.stdout
    assert "failures" in (tmp_path / "r.html").read_text("utf-8")


def test_without_a_text_it_reads_what_comes_with_the_package_or_with_python(run: Path, tmp_path: Path) -> None:
    result = doctor(run, "--tokens", "60", "--json", "--quiet", "--out", tmp_path / "r.html")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)["facts"]
    assert "to Congress" in facts["text"] or "manual" in facts["text"]
    assert facts["tokens"] == {"equality": 60, "gates": 240, "gradient": 60}


def test_what_a_user_can_do_wrong_is_one_line(run: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("short", "utf-8")
    (tmp_path / "binary").write_bytes(b"\0\1" * 50)
    weights = run / "model.safetensors"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in run.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / weights.name).write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([tmp_path / "none"], "is not a folder"),
        ([tmp_path / "empty"], "lacks"),
        ([damaged], "truncated"),
        ([run, "--text", tmp_path / "none.txt"], "none.txt does not exist; give one text file"),
        ([run, "--text", tmp_path / "empty"], "empty is a folder; give one text file"),
        ([run, "--text", tmp_path / "short.txt"], "short.txt has 5 tokens"),
        ([run, "--text", tmp_path / "binary"], "binary"),
        ([run, "--out", tmp_path / "none" / "r.html"], "the folder does not exist"),
        ([run, "--out", tmp_path], "a folder"),
        ([run, "--threads", "0"], "threads"),
        ([run, "--device", "nowhere"], "device"),
    ):
        result = doctor(*words, *([] if "--out" in words else ["--out", tmp_path / "r.html"]))
        assert result.exit_code == 2, (words, result.output)
        assert result.stderr.startswith("siltstone: error: ") and result.stderr.count("\n") == 1 and said in result.stderr, (
            result.stderr
        )
    assert not (tmp_path / "r.html").exists()
    assert doctor(run, "--tokens", "3").exit_code == 2


def test_ctrl_c_leaves_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-m", "siltstone", "doctor", str(run), "--tokens", "5000", "--out", str(tmp_path / "r.html")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and "float32" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "siltstone: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "temporary"] and not list((tmp_path / "temporary").iterdir())


class Outline(HTMLParser):
    """Fails where a closing tag does not fit; keeps all links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"cache": "sparse", "gate": "softmax", "heads": 16, "d_model": 32},
        {"cache": "none"},
        {"pattern": "w"},
        {"pattern": "am"},
        {"checkpoint_dtype": "bfloat16"},
        {"checkpoint_dtype": "int8", "max_checkpoints": 3, "evict": "merge", "cache": "sparse"},
    ],
    ids=lambda keys: " ".join(map(str, keys.values())) or "plain",
)
def test_the_report_is_whole_for_any_model(keys: dict[str, Any]) -> None:
    model = make(**keys)
    assert tokens_wanted(model.cfg) <= len(IDS)
    record = examine(model, st.ByteTokenizer(), IDS)
    assert record.gradient["buckets"][-1]["all"] is not None
    record.facts["run"] = "<run> & more"
    page, parsed = report.page(record), Outline()
    parsed.feed(page)
    assert not parsed.open and parsed.links == [] and "&lt;run&gt; &amp; more" in page and "<run>" not in page.split("<script")[0]
    assert "prefers-color-scheme: dark" in page and "nan" not in re.sub(r"<script.*", "", page, flags=re.S)
    stored = re.search(r'<script type="application/json" id="record">(.*?)</script>', page, re.S)
    assert stored and json.loads(stored[1]) == json.loads(json.dumps(record.to_dict()))


def test_the_library_refuses_a_text_that_is_too_short() -> None:
    with pytest.raises(st.errors.InputError, match="3 tokens"):
        examine(make(), st.ByteTokenizer(), [1, 2, 3])
