"""JSON files and lines with their own checksum: damage is detected, and people can still read them.

A file is an object whose first key, `sealed`, is true and whose last key, `sha256`, is the SHA-256 of the others (sorted keys, no
spaces, ASCII); if one of the two is missing, the file was altered. A line of a `.jsonl` file is an object whose last key,
`crc32`, is the CRC-32 of the others, eight hexadecimal digits; a file has it in every line, or in none.

Both are checked as bytes: text that parses to the same values, but is spelled otherwise (`3E-05` for `3e-05`), was altered.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from ..core.plain import json_line, plain
from .atomic import atomic_file
from .parse import parse_object
from .regular import read_limited

MOST = 64 * 2**20  # maximum bytes of a file
MARK, SUM, LINE_SUM = "sealed", "sha256", "crc32"


def write_checked(path: str | Path, value: dict[str, Any]) -> None:
    """Writes an object and its checksum, atomically. Raises StorageError."""
    data = _sealed(value)
    with atomic_file(path) as file:
        file.write(data)


def read_checked(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bool]:
    """The object, and whether it had a checksum (files of early versions have none).

    Raises OSError if the file cannot be read, ValueError if it is not a JSON object or was altered.
    """
    data = read_limited(path, MOST)
    found = parse_object(data)
    sealed = MARK in found or SUM in found
    value = {key: x for key, x in found.items() if key not in (MARK, SUM)}
    if sealed and data != _sealed(value):
        raise ValueError("it was altered after it was written: its checksum differs")
    return value, sealed


def checked_line(value: dict[str, Any]) -> str:
    """One line of JSON with its checksum, and a line end."""
    value = plain(value)
    return json_line(value | {LINE_SUM: _crc32(value)}) + "\n"


def read_lines(text: str) -> list[dict[str, Any] | None]:
    """The objects of all lines; None for a line that is not a JSON object or was altered."""
    found = [_line(line) for line in text.splitlines()]
    summed = any(fits for _, fits in found)
    return [value if fits or not summed else None for value, fits in found]


def _line(line: str) -> tuple[dict[str, Any] | None, bool]:
    """A line's object, and whether it has its checksum."""
    try:
        value = parse_object(line)
    except ValueError:
        return None, False
    if LINE_SUM not in value:
        return value, False
    del value[LINE_SUM]
    return (value, True) if line + "\n" == checked_line(value) else (None, False)


def _sealed(value: dict[str, Any]) -> bytes:
    """The file of an object."""
    sealed = {MARK: True} | value
    return (json.dumps(sealed | {SUM: _sha256(sealed)}, indent=1) + "\n").encode("ascii")


def _plain(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(_plain(value)).hexdigest()


def _crc32(value: dict[str, Any]) -> str:
    return f"{zlib.crc32(_plain(value)):08x}"
