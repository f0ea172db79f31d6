"""JSON files and lines that carry their own checksum: a flipped bit is found, and people can still read them.

A file is an object whose last key, `sha256`, is the SHA-256 of the others (sorted keys, no spaces, ASCII). A line of a `.jsonl`
file is an object whose last key, `crc32`, is that of the others, eight hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from .atomic import write_json
from .parse import parse_object
from .regular import read_limited

MOST = 64 * 2**20  # bytes of a file
SUM, LINE_SUM = "sha256", "crc32"


def write_checked(path: str | Path, value: dict[str, Any]) -> None:
    """Writes an object and its checksum, atomically. Raises StorageError."""
    write_json(path, value | {SUM: _sha256(value)})


def read_checked(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bool]:
    """The object, and whether it had a checksum (files of early versions have none).

    Raises OSError when the file cannot be read, ValueError when it is no JSON object or was altered.
    """
    found = parse_object(read_limited(path, MOST))
    wanted = found.pop(SUM, None)
    if wanted is not None and wanted != _sha256(found):
        raise ValueError("it was altered after it was written: its checksum differs")
    return found, wanted is not None


def checked_line(value: dict[str, Any]) -> str:
    """One line of JSON with its checksum, and a line end."""
    return json.dumps(value | {LINE_SUM: _crc32(value)}, allow_nan=False) + "\n"


def read_line(line: str) -> dict[str, Any]:
    """The object of a line. Raises ValueError where it is no JSON object or was altered; lines without a checksum are taken."""
    found = parse_object(line)
    wanted = found.pop(LINE_SUM, None)
    if wanted is not None and wanted != _crc32(found):
        raise ValueError("the line was altered after it was written: its checksum differs")
    return found


def _plain(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(_plain(value)).hexdigest()


def _crc32(value: dict[str, Any]) -> str:
    return f"{zlib.crc32(_plain(value)):08x}"
