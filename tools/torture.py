"""Fails system calls of real `siltstone stream --session` and `siltstone train` processes, one in each: `make torture`.

Each process runs in its own folder; one of its calls on the files there fails (no space, a failing disk), or the process is
killed at that call. Checked are: the error is one line, the saved files can be loaded, files of other programs are unchanged,
and the same command, run again, ends with the same bits as an undisturbed run.

Needs a C compiler (`cc`) for tools/torture.c; without one it prints a message and does nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CALLS = ("open", "write", "fsync", "close", "rename", "unlink", "mkdir", "fchmod", "flock")  # as in tools/torture.c
ERRORS = (errno.ENOSPC, errno.EIO, 0)
SMALL = {"depth": 1, "d_model": 16, "heads": 2, "window": 4, "segment": 4, "router_dim": 4}
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 40


@dataclass(frozen=True)
class Job:
    """A command that saves into a folder.

    words   arguments of the command, given the folder
    result  the expected result, from the folder
    check   loads what was saved; raises what loading raises
    """

    name: str
    words: Callable[[Path], list[object]]
    result: Callable[[Path], bytes]
    check: Callable[[Path], None]


def jobs(store: Path) -> list[Job]:
    """The commands, with their own model and text in `store`."""
    import torch

    import siltstone as st
    from siltstone.text import ByteTokenizer

    torch.manual_seed(0)
    model = st.LM(st.presets.nano(259, **SMALL))
    run = st.save(model, ByteTokenizer(), store / "run")
    (store / "text").mkdir()
    text = store / "text" / "text.txt"
    text.write_text(TEXT)
    settings = [x for key, value in SMALL.items() for x in ("--set", f"{key}={value}")]
    settings += ["--preset", "nano", "--batch", 2, "--length", 16, "--span", 32, "--threads", 1, "--quiet"]
    settings += ["--steps", 3, "--save-every", 1, "--resume"]

    def loads_session(folder: Path) -> None:
        if (folder / "a.silt").exists():
            st.Session.load(folder / "a.silt", *st.load(run))

    def loads_model(folder: Path) -> None:
        if (folder / "run" / "model.safetensors").exists():
            st.load(folder / "run")

    return [
        Job(
            "stream",
            lambda folder: ["stream", run, text, "--session", folder / "a.silt", "--every", 800, "--threads", 1],
            lambda folder: (folder / "a.silt").read_bytes(),
            loads_session,
        ),
        Job(
            "train",
            lambda folder: [
                "train",
                text.parent,
                "--out",
                folder / "run",
                "--steps",
                3,
                "--save-every",
                1,
                "--resume",
                *settings,
            ],
            lambda folder: (folder / "run" / "model.safetensors").read_bytes(),
            loads_model,
        ),
    ]


def process(words: list[object], folder: Path, call: int = -1, number: int = -1, error: int = 0) -> tuple[int, str, list[int]]:
    """Runs a command in a child process: exit code (below 0: the signal), its stderr, and the number of calls of each kind."""
    from siltstone.cli.app import main

    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as counted:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(said.fileno(), 2)
            library = ctypes.CDLL(None)
            library.torture_arm(os.fsencode(folder), call, ctypes.c_long(number), error)
            code = 1
            try:
                main([str(word) for word in words])
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os.write(counted.fileno(), " ".join(str(library.torture_seen(kind)) for kind in range(len(CALLS))).encode())
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0), counted.seek(0)
        return code, said.read(), [int(n) for n in counted.read().split()]


def torture(job: Job, store: Path, runs: int, rng: random.Random) -> list[str]:
    """The failures of at most `runs` runs, one line each."""
    whole = new_folder(store / job.name / "whole")
    code, said, counts = process(job.words(whole), whole)
    assert code == 0, said
    wanted = job.result(whole)
    cases = [(kind, number, error) for kind, n in enumerate(counts) for number in range(n) for error in ERRORS]
    print(f"{job.name}: {dict(zip(CALLS, counts, strict=True))}, {min(runs, len(cases))} of {len(cases)} cases", flush=True)
    wrong: list[str] = []
    for kind, number, error in sorted(rng.sample(cases, min(runs, len(cases)))):
        name = f"{job.name}: {CALLS[kind]} {number}: {errno.errorcode.get(error, 'killed')}"
        folder = new_folder(store / job.name / name.replace(": ", "-"))
        code, said, _ = process(job.words(folder), folder, kind, number, error)
        if not told(code, said, error):
            wrong.append(f"{name}: ended with {code} and said {said!r}")
        try:
            job.check(folder)
        except Exception as failed:
            wrong.append(f"{name}: what it saved does not load: {failed}")
        code, again, _ = process(job.words(folder), folder)
        if code or job.result(folder) != wanted:
            wrong.append(f"{name}: the next run ended with {code} or other bits and said {again!r}, after {said!r}")
        if left := [path.name for path in folder.rglob(".*")]:
            wrong.append(f"{name}: {left} were left after the next run")
        if (folder / "stranger").read_bytes() != b"kept":
            wrong.append(f"{name}: a file of another program was changed")
        shutil.rmtree(folder)
    return wrong


def told(code: int, said: str, error: int) -> bool:
    """Whether a process with a failing call (error 0: it was killed) ended with success, or with an error of one line."""
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("siltstone: error: ")]
    if not error:
        return code == -9
    return code in (0, 2) and len(errors) == bool(code) and all(line.startswith("siltstone: ") for line in lines)


def new_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "stranger").write_bytes(b"kept")
    return path


def inside(runs: int, seed: int) -> int:
    """With the library loaded."""
    import torch

    torch.set_num_threads(1)
    began, wrong, rng = time.monotonic(), [], random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="siltstone-") as store:
        for job in jobs(Path(store)):
            wrong += torture(job, Path(store), runs, rng)
    print("\n".join(wrong) if wrong else f"nothing was lost ({time.monotonic() - began:.0f} s)")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="of each command (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="selects the calls that fail, if not all do (default 0)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        return inside(asked.runs, asked.seed)
    compiler = shutil.which("cc")
    if compiler is None:
        print("no C compiler (cc) was found: the system calls of real processes were not made to fail")
        return 0
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder:
        library = Path(folder, "torture.so")
        source = Path(__file__).with_name("torture.c")
        subprocess.run([compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        env = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, __file__, "--inside", *sys.argv[1:]], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
