"""Every example runs as it is, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAYS = {
    "batch_of_sessions": r"tokens read, then: ….*3 sessions, \d+ turns",
    "fork_for_questions": r"1,861 tokens read once.*In regard to the roads, ….*the session is still at 1,861 tokens",
    "layer_in_your_transformer": r"loss after 40 steps: [0-3]\.\d\d\n.*differ by \de-0[6-9] at most",
    "train_and_stream": r"step 30: [0-3]\.\d\d bits a byte\n.*tokens read; the file after half of them had \d+,\d{3} bytes",
    "watch_a_log": r"line 1,001: .* out of memory.*line 1,141: .*passwd.*300 lines watched, 2 alerts",
}


def test_every_example_is_tried_and_listed() -> None:
    names = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    assert names == sorted(SAYS)
    page = (ROOT / "examples/README.md").read_text("utf-8")
    assert all(f"[{name}.py]({name}.py)" in page for name in names)


@pytest.mark.parametrize("name", sorted(SAYS))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[name], done.stdout, re.S), done.stdout
    assert not list(tmp_path.iterdir())
