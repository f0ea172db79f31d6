"""Which writes are kept: blocks of them against one after the other."""

from __future__ import annotations

import pytest
import torch

from siltstone.cache.exact import select


def one_by_one(surprise: list[float], most: int) -> list[list[int]]:
    """The writes kept after 0, 1, ... of them, in order of time."""
    return [sorted(sorted(range(m), key=lambda i: (surprise[i], i))[-most:]) for m in range(len(surprise) + 1)]


@pytest.mark.parametrize("longest", [1, 3, 7])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_blocks_of_writes_keep_what_single_writes_keep(most: int, longest: int) -> None:
    """Rows that begin with too few, just enough or more writes than are kept; many are equal."""
    gen, rows, equal = torch.Generator().manual_seed(0), 8, 0
    count = torch.randint(0, longest + 1, (rows, 6), generator=gen)
    first = count.cumsum(1) - count
    before = torch.randint(0, most + 4, (rows,), generator=gen).tolist()
    surprises = torch.randint(0, 6, (rows, most + 4 + 6 * longest), generator=gen).double()
    wanted = [one_by_one(row.tolist(), most) for row in surprises]
    pool = torch.full((rows, 1 + most + 6 * longest), -torch.inf, dtype=torch.float64)
    numbers = []  # of the write at each place, -1: of none
    for r, already in enumerate(before):
        old = wanted[r][already]
        numbers.append(torch.tensor([-1] * (1 + most - len(old)) + old + [*range(already, already + 6 * longest)]))
        pool[r] = surprises[r, numbers[r]].masked_fill(numbers[r] < 0, -torch.inf)
    found, until, held = select(pool, most, first, count, longest)
    assert found.shape == until.shape == (rows, 6, most + longest)
    since = (torch.arange(most + longest) - most + 1).clamp(min=0)
    for r, already in enumerate(before):
        for b in range(6):
            for m in range(int(count[r, b]) + 1):
                seen = (since <= m) & (m < until[r, b])
                got = numbers[r][found[r, b][seen]].tolist()
                assert got == wanted[r][already + int(first[r, b]) + m]
                equal += len({*surprises[r, got].tolist()}) < len(got)
        last = wanted[r][already + int(count[r].sum())]
        assert numbers[r][held[r]].tolist() == [-1] * (most - len(last)) + last
    assert most == 1 or equal > 10
