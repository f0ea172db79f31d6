"""The tool that fails calls of whole commands: what it takes for a good end, and that its two halves agree."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import TOOLS

GOOD = [(0, "", errno.EIO), (2, "siltstone: error: a disk\n", errno.EIO), (0, "siltstone: begins\n", errno.EIO), (-9, "", 0)]
BAD = [
    (1, "Traceback (most recent call last):\n", errno.EIO),
    (2, "siltstone: error: a\nTraceback\n", errno.EIO),
    (2, "", errno.EIO),
    (0, "siltstone: error: a disk\n", errno.EIO),
    (-9, "", errno.EIO),
    (0, "", 0),
]


@pytest.mark.parametrize(("end", "good"), [(end, True) for end in GOOD] + [(end, False) for end in BAD])
def test_what_is_a_good_end(tool: Callable[[str], ModuleType], end: tuple[int, str, int], good: bool) -> None:
    assert tool("torture").told(*end) == good


def test_calls_have_the_same_numbers_on_both_sides(tool: Callable[[str], ModuleType]) -> None:
    found = re.search(r"enum kinds {(.*), KINDS }", Path(TOOLS, "torture.c").read_text())
    assert found and tuple(found[1].lower().replace(" ", "").split(",")) == tool("torture").CALLS


def test_without_a_compiler_it_says_so(
    tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torture = tool("torture")
    monkeypatch.setattr(torture.shutil, "which", lambda _: None)
    monkeypatch.setattr("sys.argv", ["torture.py"])
    assert torture.main() == 0 and "no C compiler" in capsys.readouterr().out
