"""Segments whose first ones have lengths of their own, against counting write by write."""

from __future__ import annotations

import numpy as np
import pytest

from siltstone.bank.constant import ConstantBank
from siltstone.config import registry
from siltstone.schedule.segments import Segments, held

LENGTHS = [(), (1,), (1, 2, 4), (6, 1, 5), (2, 2, 2, 2), (6,)]
FULL = 6


def counted(lengths: tuple[int, ...], phase: int, writes: int) -> list[list[int]]:
    """The places of each segment's writes: each write as it comes, the first `phase` of which were made before."""
    whole = [*lengths, *[FULL] * (phase + writes)]
    places = [(n, place) for n, size in enumerate(whole) for place in range(size)][phase : phase + writes]
    return [[place for n, place in places if n == number] for number in range(places[0][0], places[-1][0] + 1)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_lengths_against_counting(lengths: tuple[int, ...]) -> None:
    phases = np.arange(FULL + 3)
    rows = [counted(lengths, int(p), 40) for p in phases]
    found = Segments(FULL, phases, lengths=lengths) if lengths else Segments(FULL, phases % FULL)
    number = np.arange(5)[None].repeat(len(rows), 0)
    sizes = np.array([[len(s) for s in row[:5]] for row in rows])
    assert (found.opens(number + 1) - found.opens(number) == sizes).all() and not found.opens(number[:, :1]).any()
    assert found.begins(number).tolist() == [[row[0][0], 0, 0, 0, 0] for row in rows]
    online = [[n for n, segment in enumerate(row) for _ in segment][:30] for row in rows]
    assert found.sealed(np.arange(1, 31)[None]).tolist() == online
    for block, blocks in ((6, 1), (2, 3), (1, 6)):
        first = found.begins(number)
        writes = held(first + sizes - 1, first, block, blocks)
        assert (found.writes(number, block, blocks) == writes).all() and (writes.sum(-1) == sizes).all()
        empty = found.empty(5, block, blocks)
        assert blocks == 1 or (np.zeros_like(writes, bool) if empty is None else empty).tolist() == (writes == 0).tolist()


def test_online_is_that_of_each_write() -> None:
    def online(segments: Segments, writes: int) -> list[tuple[int, int]]:
        number = segments.sealed(np.full((2, 1), writes))
        return list(zip(number[:, 0].tolist(), segments.opens(number)[:, 0].tolist(), strict=True))

    one = Segments(FULL, np.array([2, 2]), lengths=(1, 2, 4))
    assert [online(one, n) for n in (1, 2, 5, 6, 12)] == [[x] * 2 for x in ((0, 0), (1, 1), (1, 1), (2, 5), (3, 11))]
    assert online(Segments(FULL, np.array([0, 2]), lengths=(1, 2, 4)), 2) == [(1, 1), (1, 1)]
    first, second = online(Segments(FULL, np.array([0, 2]), lengths=(1, 2, 4)), 9)
    assert first != second


@pytest.mark.parametrize("lengths", [(0, 1), (7,), (-1,)])
def test_lengths_that_none_may_have(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be from 1 to 6 writes"):
        Segments(FULL, np.zeros(1, np.int64), lengths=lengths)


def test_kinds_are_found() -> None:
    assert list(registry.members("segments")) == ["constant", "content", "logarithmic"]
    for kind in registry.members("segments").values():
        assert not kind.lengths(8) and kind.growth and kind.spans(5, {})[-1][1] == 5
    assert registry.member("segments", "content").cuts and not ConstantBank.cuts
