"""The script that proves reuse finds out a turn that read something again, and a server that becomes slow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest


def test_what_is_found_out(tool: Callable[[str], ModuleType]) -> None:
    answer, checked = tool("talk").Answer, tool("serve_reuse").checked
    turns = [answer("x", "a", 100 + 10 * i, 100 + 10 * i - 6 if i else 0, 4, 1.0 if i else 9.0) for i in range(6)]
    figures, wrong = checked("one", turns, 1.5)
    assert not wrong and figures["read_in_later_turns"] == [6, 6] and figures["document_read"] == 100
    forgot = [*turns[:3], replace(turns[3], cached=turns[3].cached - 1), *turns[4:]]
    assert checked("one", forgot, 1.5)[1] == ["one, turn 4: 123 of 124 earlier tokens were reused"]
    slow = [*turns[:3], *(replace(turn, first=1.6) for turn in turns[3:])]
    assert len(checked("one", slow, 1.5)[1]) == 1 and not checked("one", slow, 1.7)[1]
    for broken in ([*turns[:5], replace(turns[5], written=0)], [replace(turns[0], first=float("nan")), *turns[1:]]):
        assert "no text" in checked("one", broken, 100)[1][-1]


def test_documents_have_the_length_that_is_asked(tool: Callable[[str], ModuleType], pair: tuple) -> None:
    document = tool("talk").document
    for tokens in (50, 500):
        count = len(pair[1].encode(document("demo", tokens)))
        assert tokens <= count < tokens + 60
    assert document("demo", 50, 1)[:11] != document("demo", 50, 2)[:11]


@pytest.fixture(scope="module")
def pair() -> tuple:
    import siltstone as st

    return st.load(st.demo_run())
