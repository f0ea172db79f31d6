"""The rule that CONTRIBUTING.md shows."""

from __future__ import annotations

import re
from pathlib import Path

from .rule import KEY, VALUE, Rule, laws, unit

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def retention() -> Rule:
    found = re.search(r"`memory/retention.py`:\n\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert found
    names = {"__name__": "retention"}
    exec(compile(found[1], str(PAGE), "exec"), names)
    return Rule(names["step"], names["chunk"], lambda rand: {"key": unit(rand(KEY)), "value": rand(VALUE)})  # type: ignore[arg-type]


TestLaws = laws(retention())
