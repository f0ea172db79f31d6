"""The rows' walk: everything is read, in a fixed order, and states begin where texts begin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siltstone.text import ByteTokenizer
from siltstone.train import Recipe
from siltstone.train.corpus import Corpus, build_corpus, hashed_files
from siltstone.train.rows import Piece, Rows

EOS = 257


@pytest.fixture
def corpus(texts: Path, tmp_path: Path) -> Corpus:
    return build_corpus(hashed_files([texts]), ByteTokenizer(), tmp_path / "data")


def recipe(**keys: object) -> Recipe:
    return Recipe(**({"steps": 1, "batch": 3, "length": 32, "span": 320, "foreign": 0.0} | keys))  # type: ignore[arg-type]


def same(a: Piece, b: Piece) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_a_row_reads_consecutive_pieces(corpus: Corpus) -> None:
    """Targets follow inputs; where the next input is another id than the target, a part has begun there."""
    rows = Rows(corpus, recipe())
    pieces = [rows.next() for _ in range(40)]
    for row in range(3):
        ids = np.concatenate([p.ids[row] for p in pieces])
        targets = np.concatenate([p.targets[row] for p in pieces])
        begins = np.concatenate([np.where(np.arange(32) == 0, p.fresh[row], p.reset[row]) for p in pieces])
        assert begins[0]
        jumps = np.flatnonzero(ids[1:] != targets[:-1]) + 1
        assert begins[jumps].all()
        assert EOS not in ids
        assert begins[1:][targets[:-1] == EOS].all()
    assert pieces[3].bytes == (pieces[3].targets < 256).sum()


def test_every_part_is_read_once_an_epoch(corpus: Corpus) -> None:
    rows = Rows(corpus, recipe(batch=1))
    ids = []
    while rows.cursor()["dealt"] <= len(corpus.parts(320)):
        ids.append(rows.next().ids[0])
    twice = np.bincount(np.concatenate(ids), minlength=258) - np.bincount(corpus.ids, minlength=258)
    assert twice[:256].sum() < len(corpus.ids) * 0.1
    assert twice[:256].min() > -20


def test_the_order_comes_from_the_seed(corpus: Corpus) -> None:
    a, b, c = Rows(corpus, recipe(seed=1)), Rows(corpus, recipe(seed=1)), Rows(corpus, recipe(seed=2))
    walks = [[rows.next() for _ in range(30)] for rows in (a, b, c)]
    assert all(same(x, y) for x, y in zip(walks[0], walks[1], strict=True))
    assert not all(same(x, y) for x, y in zip(walks[0], walks[2], strict=True))


def test_a_cursor_brings_the_walk_back(corpus: Corpus) -> None:
    rows = Rows(corpus, recipe(foreign=0.5))
    for _ in range(17):
        rows.next()
    other = Rows(corpus, recipe(foreign=0.5))
    other.seek(rows.cursor())
    for _ in range(60):  # into the next epoch
        assert same(rows.next(), other.next())


def test_rows_do_not_march_in_step(texts: Path, corpus: Corpus) -> None:
    rows = Rows(corpus, recipe(batch=4, span=640))
    begun = [int((p.fresh | p.reset.any(1)).sum()) for p in (rows.next() for _ in range(40))]
    assert begun[0] == 4
    assert max(begun[1:]) < 4


def test_a_share_begins_from_foreign_states(corpus: Corpus) -> None:
    walk = Rows(corpus, recipe(foreign=1.0))
    first = walk.next()
    assert first.fresh.all()
    assert np.array_equal(first.source, range(3))
    later = [walk.next() for _ in range(100)]
    assert not any(p.fresh.any() or p.reset.any() for p in later)
    assert any((p.source != np.arange(3)).any() for p in later)
    walk = Rows(corpus, recipe(foreign=0.3, span=32))
    pieces = [walk.next() for _ in range(300)]
    foreign = sum(int((p.source != np.arange(3)).sum()) for p in pieces)
    fresh = sum(int(p.fresh.sum()) for p in pieces)
    assert 0.2 < foreign / (foreign + fresh) < 0.4
    assert not any((p.fresh & (p.source != np.arange(3))).any() for p in pieces)
    assert len({float(x) for p in pieces for x in p.draws[p.fresh]}) > 100
