"""`siltstone train`, as it is used: killed, interrupted, resumed, fed with nonsense."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from siltstone.cli.app import main
from siltstone.io import read_tensors
from siltstone.models.checkpoint import load
from siltstone.train import Trainer
from siltstone.train.report import Metrics, receipt_lines

from .conftest import SMALL, write_texts

SETTINGS = [x for key, value in (SMALL | {"depth": 1}).items() for x in ("--set", f"{key}={value}")]
QUICK = [*SETTINGS, "--preset", "nano", "--batch", "3", "--length", "16", "--span", "48", "--threads", "1", "--quiet"]
SOURCE = str(Path(__file__).parents[2] / "src")


def here(*args: str | Path) -> int:
    """The command in this process; its exit code."""
    with pytest.raises(SystemExit) as done:
        main(["train", *map(str, args)])
    return int(done.value.code or 0)


def there(*args: str | Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "siltstone.cli.app", "train", *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": SOURCE}, stdout=pipe, stderr=pipe, text=True)


def wait_for_steps(folder: Path, steps: int, process: subprocess.Popen[str]) -> None:
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= steps:
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.005)
    raise AssertionError(f"{folder} did not come to {steps} steps")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_kill_at_any_instant_and_resume(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it starts, killed while it trains and saves, interrupted with Ctrl-C: in the end the same bits."""
    train = [texts, *QUICK, "--steps", "40", "--tokenizer", "bpe:270", "--valid", texts / "3.txt", "--valid-every", "10"]
    assert here(*train, "--out", tmp_path / "whole") == 0
    assert "held out" in capsys.readouterr().out

    cut = tmp_path / "cut"
    again = [*train, "--out", cut, "--save-every", "1", "--resume"]
    rng = random.Random()
    process = there(*again)
    time.sleep(rng.uniform(0, 2.5))
    process.kill()
    process.communicate()

    process = there(*again)
    wait_for_steps(cut, 8, process)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    process.communicate()

    def pressed(trainer: Trainer, fraction: float) -> dict[str, float]:
        if trainer.step == 34:  # far beyond the steps at which the process before was killed
            os.kill(os.getpid(), signal.SIGINT)
        return advance(trainer, fraction)

    advance = Trainer.advance
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", pressed)
        assert here(*again) == 130
    said = capsys.readouterr().err
    assert said.strip() == f"siltstone: interrupted; step 35 is saved; resume with --resume --out {cut}"
    load(cut)

    assert here("--resume", "--out", cut, "--quiet") == 0
    assert weights(cut) == weights(tmp_path / "whole")
    lines = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))
    full = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == [line["loss"] for line in full if "loss" in line]
    assert not list(cut.rglob(".*.tmp"))


def test_a_run_and_its_folder(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert here(texts, *QUICK, "--steps", "5", "--out", out, "--seed", "3") == 0
    said = capsys.readouterr().out
    for word in (
        "steps",
        "tokens/s",
        "bits per byte",
        "fingerprint",
        "a row, after ",
        "over the last 1 step; nothing was held out",
    ):
        assert word in said
    model, tokenizer = load(out)
    assert model.cfg.layer.window == 8
    assert tokenizer.vocab_size == 259
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["tokens"] == 5 * 3 * 16
    assert receipt["fingerprint"] in said
    one = "\n".join(receipt_lines(receipt | {"recent_steps": 7, "threads": 1, "state_positions": [3, 3]}))
    assert "over the last 7 steps;" in one and "on cpu, 1 thread\n" in one and " a row, after 3 tokens\n" in one
    low, high = receipt["state_positions"]
    assert 16 <= low < high <= 48 and f" a row, after {low} to {high} tokens" in said
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert math.isclose(receipt["train_bits_per_byte"], last["bits_per_byte"])
    record = json.loads((out / "train.json").read_text())
    assert [d["name"] for d in record["train"]["documents"]] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert record["recipe"]["seed"] == 3

    assert here(texts, *QUICK, "--steps", "5", "--out", out) == 2
    assert "already has a run" in capsys.readouterr().err
    assert here("--resume", "--out", out, "--steps", "7", "--quiet") == 0
    assert json.loads((out / "receipt.json").read_text())["steps"] == 7
    for change, words in (
        (["--seed", "4"], "seed=4 cannot change"),
        (["--set", "window=9"], "window=9 cannot change"),
        (["--tokenizer", "bpe:300"], "tokenizer='bpe:300' cannot change"),
        ([texts / "1.txt"], "not the one that the run began with"),
        (["--valid", texts / "1.txt"], "held-out text is not the one"),
    ):
        keep = SETTINGS if "--set" in change else []
        preset = ["--preset", "nano"] if keep else []
        assert here("--resume", "--out", out, *preset, *keep, *change) == 2
        assert words in capsys.readouterr().err


def test_a_run_that_had_ended_says_so(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert here(texts, *QUICK, "--steps", "2", "--out", out, "--resume") == 0
    first = capsys.readouterr()
    assert "nothing was trained" not in first.err and "tokens/s" in first.out
    assert here("--resume", "--out", out, "--steps", "2") == 0
    again = capsys.readouterr()
    assert "siltstone: the run had reached its end, step 2: nothing was trained; give more --steps" in again.err
    assert "tokens/s" not in again.out
    assert here("--resume", "--out", out, "--steps", "1") == 2 and "below step 2" in capsys.readouterr().err
    assert here("--resume", "--out", out, "--steps", "3") == 0 and "nothing was trained" not in capsys.readouterr().err
    strings = tmp_path / "strings"  # steps that read no text are steps too
    assert here(texts, *QUICK, "--copying", "3", "--steps", "1", "--out", strings) == 0
    assert here("--resume", "--out", strings, "--steps", "2") == 0 and "nothing was trained" not in capsys.readouterr().err


def test_a_resumed_run_names_all_that_differs(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert here(texts, *QUICK, "--steps", "1", "--out", out, "--resume") == 0
    assert "a new run begins there" in capsys.readouterr().err
    assert here("--resume", "--out", out, "--set", "window=9", "--set", "depth=1") == 2
    said = capsys.readouterr().err
    assert "error: depth=1" not in said and said.startswith("siltstone: error: window=9, d_model=160, ")
    assert "segment=128" in said and "began with window=8, d_model=16, " in said and "depth" not in said
    assert "leave --preset, --config and --set out: the keys of the run are used" in said
    assert here("--resume", "--out", out, "--batch", "4", "--seed", "2") == 2
    said = capsys.readouterr().err
    assert "batch=4" in said and "seed=2" in said and "began with" in said and "batch=3" in said and "leave them out" in said
    assert here("--resume", "--out", out, "--steps", "2", "--quiet") == 0


def test_the_last_tenth_of_a_run_is_what_its_receipt_tells(tmp_path: Path) -> None:
    told = []
    with Metrics(tmp_path / "metrics.jsonl", 0) as metrics:
        for step in range(1, 701):
            metrics.write({"step": step, "loss": 1.0, "bits_per_byte": float(step), "bytes": 2})
            told.append((len(metrics.recent), metrics.bits_per_byte))
    assert [told[step - 1] for step in (1, 9, 10, 19, 20)] == [(1, 1), (1, 9), (1, 10), (1, 19), (2, 19.5)]
    assert told[499] == (50, 475.5) and told[699] == (50, 675.5)
    with Metrics(tmp_path / "metrics.jsonl", 40) as metrics:
        assert (len(metrics.recent), metrics.bits_per_byte) == (4, 38.5)


def test_standard_input_and_a_configuration_file(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "model.toml"
    config.write_text("".join(f"{key} = {value}\n" for key, value in SMALL.items()))
    args = ["-", *QUICK[len(SETTINGS) :], "--config", config, "--set", "gate=softmax", "--steps", "2", "--out", tmp_path / "run"]
    monkeypatch.setattr(sys, "stdin", open(texts / "2.txt", encoding="utf-8"))
    assert here(*args) == 0
    sys.stdin.close()
    out = capsys.readouterr().out
    assert "steps           2" in out
    model, _ = load(tmp_path / "run")
    assert model.cfg.layer.gate == "softmax"
    assert model.cfg.layer.segment == 8
    assert here("--resume", "--out", tmp_path / "run", "--steps", "3", "-q") == 0


def test_a_model_whose_blocks_differ(texts: Path, tmp_path: Path) -> None:
    config = tmp_path / "model.toml"
    config.write_text("".join(f"{key} = {value}\n" for key, value in SMALL.items()) + "[layers.0]\nsegment = 4\n")
    keys = ["--config", config, "--set", "kv_heads=1", "--set", "position=alibi", "--set", "short_conv=4"]
    assert here(texts, *QUICK[len(SETTINGS) :], *keys, "--steps", "4", "--out", tmp_path / "run") == 0
    model, _ = load(tmp_path / "run")
    assert [layer.segment for layer in model.cfg.layer_configs] == [4, 8] and model.cfg.layer.short_conv == 4
    assert any(bool(p.any()) for name, p in model.named_parameters() if name.endswith("conv.taps"))
    given = ["--set", 'layers={"0": {"segment": 16}}']
    assert here(texts, *QUICK[len(SETTINGS) :], *keys, *given, "--resume", "--out", tmp_path / "run") == 2
    _, meta = read_tensors(tmp_path / "run" / "resume.safetensors")
    assert max(json.loads(meta["meta"])["state"]["phase"]) < 4


def test_a_number_of_parameters(texts: Path, tmp_path: Path) -> None:
    small = [word for key, value in SMALL.items() if key != "mlp_dim" for word in ("--set", f"{key}={value}")]
    given = [texts, *QUICK[len(SETTINGS) :], *small, "--out", tmp_path / "run", "--parameters", "20000"]
    assert here(*given, "--steps", "2") == 0
    assert abs(load(tmp_path / "run")[0].parameters_count - 20_000) < 200
    assert here(*given, "--resume", "--steps", "3") == 0


def test_minutes(texts: Path, tmp_path: Path) -> None:
    assert here(texts, *QUICK, "--minutes", "0.01", "--out", tmp_path / "run") == 0
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert 0.5 < receipt["seconds"] < 20
    rates = [json.loads(line)["lr"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rates[-1] < max(rates)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{texts}/nothing.txt", "does not exist"),
        ("", "no text was given"),
        ("--resume", "has no run to resume"),
        ("{texts}/empty.txt", "is empty"),
        ("{texts}/binary.txt", "binary"),
        ("{texts}/latin.txt", "not valid UTF-8 at byte 3"),
        ("{texts}/0.txt --preset huge", "preset 'huge' is not known"),
        ("{texts}/0.txt --set windw=3", "did you mean 'window'"),
        ("{texts}/0.txt --set window", "key=value"),
        ("{texts}/0.txt --set vocab_size=100", "less than the tokenizer's 259"),
        ("{texts}/0.txt --parameters 100", "more than 100; ask for more"),
        ("{texts}/0.txt --parameters 9000 --set mlp_dim=4", "--parameters chooses mlp_dim, which is given too"),
        ("{texts}/0.txt --set window=0", "write_delay='window' requires window >= 1"),
        ("{texts}/0.txt --set segments=constant --set max_bytes=1000", "max_bytes=1000 holds no checkpoint"),
        ("{texts}/0.txt --set window=99999999999999", "window=99999999999999 must be a whole number of at most"),
        ("{texts}/0.txt --steps 0", "steps=0"),
        ("{texts}/0.txt --threads 0", "threads=0"),
        ("{texts}/0.txt --device abacus", "device='abacus'"),
        ("{texts}/0.txt --tokenizer letters", "'letters' is not known"),
        ("{texts}/0.txt --config {texts}/nothing.json", "nothing.json does not exist; check the path"),
        ("{texts}/0.txt --tokenizer bpe:100", "--tokenizer bpe:100 needs a number of ids of at least 259"),
        ("{texts}/0.txt --tokenizer bpe:few", "write for example --tokenizer bpe:8192"),
        ("{texts}/0.txt --set memory_options=channel", 'for example memory_options={"decay": "head"}'),
        ("{texts}/0.txt --set cut_at=\\n", "--set 'cut_at=\"\\n\"' (JSON)"),
        ("{texts}/0.txt --valid {texts}/0.txt", "also held out"),
        ("{texts}/0.txt --out {texts}/0.txt/run", "cannot write"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    texts = write_texts(tmp_path / "texts", (300,))
    args = words.split()
    (texts / "empty.txt").write_bytes(b"")
    (texts / "binary.txt").write_bytes(b"\x7fELF\0\0")
    (texts / "latin.txt").write_bytes("café".encode("latin-1"))
    out = [] if "--out" in args else ["--out", str(tmp_path / "run")]
    assert here(*(a.format(texts=texts) for a in args), *out) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
    if "--set" in args and "vocab_size=100" not in args:  # a configuration that cannot be is refused before any work is done
        assert not (tmp_path / "run").exists()
