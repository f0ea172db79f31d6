"""The demonstration, with a small untrained model: everything but the quality of the text."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import siltstone as st
from siltstone.cli.app import app
from siltstone.demo import demo_run, reading, resume, text
from siltstone.demo.panel import Panel
from siltstone.demo.record import Record
from siltstone.demo.run import demonstrate

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"depth": 2, "d_model": 32, "heads": 2, "window": 16, "segment": 16, "router_dim": 8, "segments": "logarithmic"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    st.save(st.LM(st.presets.nano(vocab_size=259, **KEYS)), st.ByteTokenizer(), folder)
    return folder


def test_from_reading_to_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "report.html", tmp_path / "picture.svg"
    record = demonstrate(run, seconds=120, tokens=6000, out=out, picture=picture)
    assert record.reader.position == [1024, 2048, 3072, 4096, 5120, 6000]
    assert record.transformer.position[0] == 1024
    assert record.resume["equal"] and record.resume["there"]["restored"] == 6000 and record.resume["there"]["recomputed"] == 0
    assert record.resume["here"]["process"] == os.getpid() != record.resume["there"]["process"]
    assert record.resume["there"]["position"] == 6000 + record.resume["tokens"]
    assert [fork["moved"] for fork in record.forks] == [False, False] and record.forks[0]["text"] != record.forks[1]["text"]
    assert [list(sample) for sample in record.samples] == [["session", "16", "64", "256"]] * 2
    assert out.read_text("utf-8").startswith("<!doctype html>") and picture.read_text("utf-8").startswith("<svg")
    assert (tmp_path / "picture-narrow.svg").read_text("utf-8").startswith("<svg")
    said = capsys.readouterr().out
    assert "bit-equal: 6,000 tokens restored" in said and str(out) in said


def test_a_short_time_ends_the_reading_and_says_so(run: Path, tmp_path: Path) -> None:
    record = demonstrate(run, seconds=1, tokens=200_000, out=tmp_path / "r.html")
    assert record.reader.position[-1] < 200_000 and "The time ended" in record.notes[0]
    assert record.resume["equal"]
    assert record.transformer.position[0] == reading.CHUNK


@pytest.mark.parametrize("seconds", [0.5, 2, 10, 60])
@pytest.mark.parametrize("pace", [0.01, 1.0], ids=["text ends first", "time ends first"])
def test_the_transformer_keeps_its_share_of_any_time(
    run: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, pace: float
) -> None:
    """With a clock that only chunks move: the session at `pace`, the transformer slower with every chunk."""
    model, tokenizer = st.load(run)
    ids = np.zeros(40 * reading.CHUNK, dtype=np.int64)
    now = 0.0

    def read(session: st.Session, ids: np.ndarray) -> reading.Turn:
        nonlocal now
        start = session.position
        end = start + len(ids)
        session.position = end  # type: ignore[misc]
        took = pace * seconds / 20 * (1 if session is race.session else 1 + start / 4096)
        now += took
        return reading.Turn(start, end, took, np.ones(len(ids)))

    class Fake:
        def __init__(self, *_: object) -> None:
            self.position, self.nbytes = 0, 1

        def fork(self) -> Fake:
            return self

        def append(self, ids: object) -> None:
            pass

    monkeypatch.setattr(reading, "Session", Fake)
    monkeypatch.setattr(reading, "read_chunk", read)
    monkeypatch.setattr(reading.Race, "_compare", lambda self, turn: None)
    monkeypatch.setattr(reading.time, "perf_counter", lambda: now)
    record = Record()
    race = reading.Race(model, tokenizer, text.Reading(ids, np.ones(len(ids), dtype=np.int64), "zeros"), record, seconds)
    with Panel(record, len(ids), Console(file=io.StringIO())) as panel:
        race.run(panel)
    done = record.transformer.position[-1] == record.reader.position[-1]
    assert done or race.spent >= 0.7 * reading.KEPT * seconds
    assert race.spent <= reading.SHARE * seconds * 1.01 and now <= 1.1 * seconds


def test_a_state_that_was_tampered_with_is_not_equal(run: Path) -> None:
    model, tokenizer = st.load(run)
    ids = np.arange(32) % 250
    a, b = st.Session(model, tokenizer), st.Session(model, tokenizer)
    a.append("the one text")
    b.append("an other text")
    assert resume.go_on(a.fork(), ids) == resume.go_on(a.fork(), ids)
    assert resume.go_on(a, ids)["logits"] != resume.go_on(b, ids)["logits"]


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_the_transformer_is_as_large_as_the_model(mlp: str) -> None:
    model = st.LM(st.presets.nano(vocab_size=300, mlp=mlp))
    rival = reading.transformer_like(model.cfg, model.parameters_count)
    assert set(rival.cfg.kinds) == {"attention"} and rival.cfg.layer == model.cfg.layer
    assert abs(rival.parameters_count / model.parameters_count - 1) < 0.01


def test_without_the_session_means_a_new_session_with_the_last_tokens(run: Path) -> None:
    model, tokenizer = st.load(run)
    ids = np.random.default_rng(0).integers(0, 256, 200)
    fresh = st.Session(model, tokenizer)
    fresh.append(torch.from_numpy(ids[68:100]))
    wanted = -fresh.score(torch.from_numpy(ids[100:132])).double().numpy()
    np.testing.assert_allclose(reading.from_nothing_but(model, ids, 100, 32, 32), wanted, rtol=1e-4)


def test_bits_per_byte_leaves_out_the_first_token() -> None:
    nats = np.array([np.nan, np.log(2), np.log(2)])
    assert reading.bits_per_byte(nats, np.array([5, 1, 3])) == pytest.approx(0.5)


def test_the_text_is_what_was_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeches = tmp_path / "speeches"
    speeches.mkdir()
    for name in ("a", "b", "c"):
        (speeches / f"{name}.txt").write_text(name * 10, "utf-8")
    (tmp_path / "heldout.json").write_text(json.dumps({"sotu": ["c.txt", "a.txt"]}), "utf-8")
    monkeypatch.setattr(text, "speeches_folder", lambda: speeches)
    found = text.reading(st.ByteTokenizer(), 1000, tmp_path)
    assert bytes(found.ids.tolist()) == b"cccccccccc\n\naaaaaaaaaa\n\n" and found.sizes.sum() == 24
    assert found.source == "2 held-out speeches to Congress"
    assert len(text.reading(st.ByteTokenizer(), 7, tmp_path).ids) == 7
    (tmp_path / "heldout.json").write_text(json.dumps({"sotu": ["d.txt"]}), "utf-8")
    with pytest.raises(st.errors.DataError, match="d.txt"):
        text.reading(st.ByteTokenizer(), 7, tmp_path)
    for damaged in ("{", "[]", '{"sotu": 3}'):
        (tmp_path / "heldout.json").write_text(damaged, "utf-8")
        with pytest.raises(st.errors.CheckpointError, match="heldout.json"):
            text.heldout(tmp_path)


def test_without_the_speeches_the_manual_is_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(text, "speeches_folder", lambda: None)
    found = text.reading(st.ByteTokenizer(), 10**7, tmp_path)
    assert 300_000 < len(found.ids) < 10**7 and "manual" in found.source


def test_what_a_user_can_do_wrong_is_one_line(run: Path, tmp_path: Path) -> None:
    for words in (
        ["--run", str(tmp_path / "none")],
        ["--run", str(run), "--report", str(tmp_path / "none" / "r.html")],
        ["--run", str(run), "--report", str(tmp_path)],
        ["--run", str(run), "--tokens", "0"],
        ["--run", str(run), "--seconds", "0"],
        ["--run", str(run), "--threads", "0"],
    ):
        result = CliRunner().invoke(app, ["demo", *words])
        assert result.exit_code == 2 and result.stderr.count("\n") == 1 and result.stderr.startswith("siltstone: error: "), words


def test_ctrl_c_leaves_no_trace_and_no_report(run: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "siltstone", "demo", "--run", str(run), "--report", str(tmp_path / "r.html")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        while "tokens  " not in process.stdout.readline():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert (process.returncode, error) == (130, "siltstone: interrupted\n")
    assert not list(tmp_path.glob("*"))


def test_the_checkpoint_that_ships_loads_and_its_text_is_long_enough() -> None:
    model, tokenizer = st.load(demo_run())
    assert model.parameters_count > 100_000
    names = text.heldout()
    assert names
    if text.speeches_folder():
        assert len(text.reading(tokenizer, 250_000).ids) == 250_000
