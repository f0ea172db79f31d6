"""The rule that CONTRIBUTING.md shows."""

from __future__ import annotations

import re
from pathlib import Path

from .rule import CASES, CUTS, KEY, VALUE, Case, Rule, unit

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def retention() -> Rule:
    found = re.search(r"`memory/retention.py`:\n\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert found
    names = {"__name__": "retention"}
    exec(compile(found[1], str(PAGE), "exec"), names)
    return Rule(names["step"], names["chunk"], lambda rand: {"key": unit(rand(KEY)), "value": rand(VALUE)})  # type: ignore[arg-type]


@CASES
def test_chunk_is_step_after_step(case: Case) -> None:
    retention().check(case)


@CUTS
def test_a_split_changes_nothing(cut: int) -> None:
    retention().check_cut(cut)
