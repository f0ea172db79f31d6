"""Small models, with weights that are settled by a seed, and their runs on the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.text import ByteTokenizer

SMALL: dict[str, Any] = {
    "segments": "constant",
    "depth": 2,
    "d_model": 32,
    "heads": 2,
    "window": 8,
    "segment": 8,
    "router_dim": 8,
}


def small_model(seed: int = 0, vocab: int = 259, **keys: Any) -> st.LM:
    """A model whose logits say something: the embedding is larger than at the beginning of a training."""
    torch.manual_seed(seed)
    model = st.LM(st.presets.nano(vocab, **(SMALL | keys))).eval()
    with torch.no_grad():
        model.embed.weight.mul_(20)
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., st.LM]:
    return small_model


@pytest.fixture(scope="session")
def model() -> st.LM:
    return small_model()


@pytest.fixture(scope="session")
def tok() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def session(model: st.LM, tok: ByteTokenizer) -> st.Session:
    """Thirty-odd tokens into a text: some segments are sealed."""
    s = st.Session(model, tok)
    s.append("Some words, and then some more — é.")
    return s


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, model: st.LM, tok: ByteTokenizer) -> Path:
    """The model's folder."""
    return st.save(model, tok, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def same() -> Callable[[st.Session, st.Session], bool]:
    """Whether two sessions stand at the same state and logits, bit for bit."""

    def check(a: st.Session, b: st.Session) -> bool:
        if a.position != b.position or (a.logits is None) != (b.logits is None):
            return False
        if a.logits is not None and b.logits is not None and not torch.equal(a.logits, b.logits):
            return False
        x, y = a._state.tensors(), b._state.tensors()
        return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) and a._state.meta() == b._state.meta()

    return check
