"""Numbers with their nouns, in singular or plural."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """`counted(1, "byte")` -> "1 byte"; `counted(2000, "speech", "speeches")` -> "2,000 speeches"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
