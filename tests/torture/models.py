"""A small model, and sessions with it, to be saved and loaded again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

import siltstone as st
from siltstone.text import ByteTokenizer

SMALL: dict[str, Any] = {"depth": 1, "d_model": 16, "heads": 2, "window": 4, "segment": 4, "router_dim": 4}
TEXTS = ("Some words.", "Some more words, by which it is known again.")


@cache
def model(seed: int = 0) -> st.LM:
    """Always the same for a seed."""
    torch.manual_seed(seed)
    return st.LM(st.presets.nano(259, **SMALL)).eval()


def session(number: int) -> st.Session:
    """That has read TEXTS[number]."""
    read = st.Session(model(), ByteTokenizer())
    read.append(TEXTS[number])
    return read


def is_new_session(path: Path) -> bool:
    """Whether the file holds session 1, and not session 0. Raises what loading raises."""
    position = st.Session.load(path, model(), ByteTokenizer()).position
    assert position in map(len, TEXTS)
    return position == len(TEXTS[1])


def is_new_model(folder: Path) -> bool:
    """Whether the folder holds the weights of seed 1, and not of seed 0. Raises what loading raises."""
    weights = st.load(folder)[0].state_dict()
    old, new = (all(torch.equal(weights[name], x) for name, x in model(seed).state_dict().items()) for seed in (0, 1))
    assert old != new
    return new
