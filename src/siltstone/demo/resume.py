"""Shows that a saved session continues with the same bits in a new process as in this one.

`python -m siltstone.demo.resume RUN SESSION IDS THREADS` loads the session, reads the ids and prints hashes and counts as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.machine import use_threads
from ..errors import SiltstoneError

if TYPE_CHECKING:
    from ..inference import Session


def go_on(session: Session, ids: np.ndarray) -> dict[str, Any]:
    """Reads `ids`, the first half in one call, the rest one by one. Returns the SHA-256 of the logits after all calls, and of the
    final state, with counts."""
    logits = hashlib.sha256()
    half = len(ids) // 2
    calls = [ids[:half], *ids[half:].reshape(-1, 1)]
    for part in calls:
        session.append(torch.from_numpy(part))
        assert session.logits is not None
        logits.update(session.logits.contiguous().view(torch.uint8).numpy().tobytes())
    state = hashlib.sha256()
    for name, x in sorted(session._state.tensors().items()):
        state.update(name.encode() + x.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "process": os.getpid(),
        "position": session.position,
        "calls": len(calls),
        "logits": logits.hexdigest(),
        "state": state.hexdigest(),
        "restored": session.counters.restored,
        "recomputed": session.counters.recomputed,
    }


def prove(session: Session, ids: np.ndarray, run: Path, folder: Path) -> dict[str, Any]:
    """Saves the session in `folder`, reads `ids` in a new process and in a fork in this process, and compares.

    Returns {"equal", "here", "there", "file_bytes", "save_ms", "tokens"}. Raises SiltstoneError if the new process fails.
    """
    file, numbers = folder / "session.silt", folder / "ids.npy"
    clock = time.perf_counter()
    session.save(file)
    save_ms = 1000 * (time.perf_counter() - clock)
    np.save(numbers, ids)
    command = [sys.executable, "-m", __name__, str(run), str(file), str(numbers), str(torch.get_num_threads())]
    path = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(path)})
    if done.returncode:
        raise SiltstoneError(f"the new process failed: {(done.stderr.strip().splitlines() or ['it printed no message'])[-1]}")
    there = json.loads(done.stdout)
    here = go_on(session.fork(), ids)
    equal = all(here[key] == there[key] for key in ("position", "logits", "state"))
    return {
        "equal": equal, "here": here, "there": there, "file_bytes": file.stat().st_size, "save_ms": save_ms, "tokens": len(ids),
    }  # fmt: skip


def main(run: str, file: str, numbers: str, threads: str) -> None:
    """The new process: its only input are the files."""
    import siltstone as st

    use_threads(int(threads))
    model, tokenizer = st.load(run)
    clock = time.perf_counter()
    session = st.Session.load(file, model, tokenizer)
    load_ms = 1000 * (time.perf_counter() - clock)
    print(json.dumps(go_on(session, np.load(numbers)) | {"load_ms": load_ms}))


if __name__ == "__main__":
    main(*sys.argv[1:])
