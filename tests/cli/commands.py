"""The command line as tests type it."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from siltstone.cli.app import app


def siltstone(*words: Any, data: bytes = b"") -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], input=data)


def good(*words: Any, data: bytes = b"") -> Result:
    result = siltstone(*words, data=data)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def refused(words: str, *command: Any, data: bytes = b"") -> None:
    """One line that says `words`, and exit code 2."""
    result = siltstone(*command, data=data)
    assert result.exit_code == 2, (result.output, result.exception)
    assert words in result.stderr and result.stderr.count("\n") == 1 and result.stderr.startswith("siltstone: error: ")


def receipt(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout.splitlines()[-1])
