"""Which writes are kept: blocks of them against one after the other."""

from __future__ import annotations

import torch

from siltstone.cache.exact import select


def one_by_one(surprise: list[float], most: int) -> list[list[int]]:
    """The writes kept after 0, 1, ... of them, in order of time."""
    return [sorted(sorted(range(m), key=lambda i: (surprise[i], i))[-most:]) for m in range(len(surprise) + 1)]


def test_blocks_of_writes_keep_what_single_writes_keep() -> None:
    gen = torch.Generator().manual_seed(0)
    empty, equal = -torch.inf, 0
    for most in (1, 2, 5):
        for longest in (1, 3, 7):
            count = torch.randint(0, longest + 1, (4, 6), generator=gen)
            first = count.cumsum(1) - count
            before = torch.randint(0, most + 4, (4,), generator=gen)
            total = int(before.max() + count.sum(1).max())
            surprise = torch.randint(0, 6, (4, total), generator=gen).double()  # many are equal
            pool = torch.full((4, 1 + most + total), empty, dtype=torch.float64)
            wanted = [one_by_one(row.tolist(), most) for row in surprise]
            for r in range(4):
                old = wanted[r][int(before[r])]
                pool[r, 1 + most - len(old) : 1 + most] = surprise[r, old]
                new = surprise[r, before[r] :][: int(count[r].sum())]
                pool[r, 1 + most : 1 + most + len(new)] = new
            found, until, held = select(pool, most, first, count, longest)

            def writes(r: int, places: torch.Tensor, old: list[int], already: int) -> list[int]:
                """Numbers of writes in the row's life."""
                shift = most - len(old)
                return [old[p - 1 - shift] if p <= most else already + p - 1 - most for p in places.tolist() if p]

            since = (torch.arange(most + longest) - most + 1).clamp(min=0)
            for r in range(4):
                already = int(before[r])
                old = wanted[r][already]
                for b in range(6):
                    for m in range(int(count[r, b]) + 1):
                        seen = (since <= m) & (m < until[r, b])
                        got = writes(r, found[r, b][seen], old, already)
                        assert got == wanted[r][already + int(first[r, b]) + m]
                        equal += len({*surprise[r, got].tolist()}) < len(got)
                assert writes(r, held[r], old, already) == wanted[r][already + int(count[r].sum())]
                assert held[r].bool().tolist() == sorted(held[r].bool().tolist())
    assert equal > 100
