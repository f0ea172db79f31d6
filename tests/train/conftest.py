"""A small text and a model that trains in milliseconds a step."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from siltstone.config import presets
from siltstone.config.model import LMConfig

SMALL = {"depth": 2, "d_model": 16, "heads": 2, "window": 8, "segment": 8, "router_dim": 8}
WORDS = "the of and to in a is that it was for on are with as his they be at one have this from or had by hot but some".split()


def configure(vocab_size: int) -> LMConfig:
    return presets.nano(vocab_size, **SMALL)


def write_texts(folder: Path, sizes: tuple[int, ...] = (900, 40, 2500, 1300)) -> Path:
    """Some files of made-up sentences, of about so many bytes."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        words = []
        while sum(map(len, words)) + len(words) < size:
            words.append(rng.choice(WORDS) + rng.choice(["", "", "", ",", ".\n"]))
        (folder / f"{number}.txt").write_text(" ".join(words), "utf-8")
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")
