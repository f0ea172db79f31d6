"""Saves a session and a model without end in a child that is killed, again and again: `python killed.py FOLDER KILLS`.

Ends with a line of JSON: kills, how many of them left an unfinished file, and what is left at the end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import siltstone as st
from siltstone.text import ByteTokenizer

from .models import is_new_model, is_new_session, model, session


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    sessions, models = [session(0), session(1)], [model(0), model(1)]

    def save(number: int) -> None:
        sessions[number % 2].save(folder / "a.silt", overwrite=True)
        st.save(models[number % 2], ByteTokenizer(), folder / "run")

    began = time.perf_counter()
    save(0)
    one = time.perf_counter() - began
    unfinished, rng = 0, random.Random(0)
    for _ in range(kills):
        child = os.fork()
        if not child:
            for number in range(1_000_000):
                save(number)
            os._exit(1)
        time.sleep(rng.uniform(0, 4 * one))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        unfinished += bool(list(folder.rglob(".*.tmp")))
        is_new_session(folder / "a.silt")  # raises what loading raises
        is_new_model(folder / "run")
    save(1)
    assert is_new_session(folder / "a.silt") and is_new_model(folder / "run")
    left = [path.name for path in folder.rglob(".*")]
    print(json.dumps({"kills": kills, "unfinished": unfinished, "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
