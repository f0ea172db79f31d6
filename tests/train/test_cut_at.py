"""Training cuts where sessions do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from siltstone.errors import TokenizerError
from siltstone.models.lm import LM
from siltstone.text import ByteTokenizer
from siltstone.train import Recipe
from siltstone.train.corpus import Corpus, build_corpus, hashed_files
from siltstone.train.trainer import Trainer

from .conftest import configure


@pytest.fixture
def corpus(texts: Path, tmp_path: Path) -> Corpus:
    return build_corpus(hashed_files([texts]), ByteTokenizer(), tmp_path / "data")


def trainer(corpus: Corpus, **keys: object) -> Trainer:
    torch.manual_seed(0)
    cfg = configure(259).replace(segments="content", segment=32, **keys)
    return Trainer(LM(cfg), corpus, Recipe(steps=4, batch=3, length=64, span=640))


def test_rows_are_cut_at_line_ends_and_resume(corpus: Corpus, tmp_path: Path) -> None:
    ours, other, flags = trainer(corpus), trainer(corpus, cut_at=None), []
    for t in (ours, other):
        t.model.register_forward_pre_hook(lambda _, x, more: flags.append((x[0], more["cut"])), with_kwargs=True)
    for _ in range(4):
        figures = [t.advance(0.5)["loss"] for t in (ours, other)]
    assert figures[0] != figures[1]
    for ids, cut in flags[::2]:
        assert torch.equal(cut, ids == 10) and cut.any()
    assert all(cut is None for _, cut in flags[1::2])
    ours.save(tmp_path / "a.safetensors")
    again = trainer(corpus)
    again.restore(tmp_path / "a.safetensors")
    assert ours.advance(0.5) == again.advance(0.5)


def test_a_text_that_no_token_holds_is_refused(corpus: Corpus) -> None:
    with pytest.raises(TokenizerError, match="cut_at"):
        trainer(corpus, cut_at="no such token")
