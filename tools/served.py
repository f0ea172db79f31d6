"""A server of its own for a script: `siltstone serve` in a process, and what the process tells of itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parent.parent
LINES = 40  # of the server's standard error, that are shown after an error


@dataclass(frozen=True)
class Served:
    """url: its address; process: it."""

    url: str
    process: subprocess.Popen[str]

    @property
    def resident(self) -> int:
        """Bytes of memory that the process has now (Linux)."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(run: str | Path, *words: str, env: dict[str, str] | None = None, grace: float = 30) -> Iterator[Served]:
    """A server on a free port, which is stopped at the end. words: further arguments of `siltstone serve`."""
    given = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | (env or {})
    command: Sequence[str] = [sys.executable, "-m", "siltstone", "serve", str(run), "--port", "0", *words]
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            last: deque[str] = deque(maxlen=LINES)
            found = None
            for line in process.stderr:  # warnings stand before the address
                last.append(line)
                found = re.search(r"http://[\d.]+:\d+", line)
                if found is not None:
                    break
            if found is None:
                raise RuntimeError(f"the server did not start: {''.join(last)}")
            Thread(target=last.extend, args=(process.stderr,), daemon=True).start()
            try:
                yield Served(found[0], process)
            except Exception:
                state = process.poll()
                told = "it runs still" if state is None else f"it ended with {state}"
                print(f"the server said last ({told}):", *last, sep="\n", file=sys.stderr)
                raise
            process.terminate()
            process.wait(grace)
        finally:
            process.kill()
