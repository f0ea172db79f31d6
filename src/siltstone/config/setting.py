"""Parses the argument of `--set`: a key, and a value in JSON or as plain text."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from ..errors import ConfigError

LONGEST = 2_000  # characters; the json module limits only nesting and the digits of whole numbers
PYTHON = {"True": "true", "False": "false", "None": "null"}
NEWLINE = r"\n"
ESCAPES = re.compile(r"(\\[nrtf]|\\u[0-9a-fA-F]{4})*")  # only escapes; also the empty text
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|-?\d[\w.+-]*(\s*:)?|[A-Za-z_][\w.+-]*|,(?=\s*[]}])')


def parse_setting(text: str) -> tuple[str, Any]:
    """See `_parsed`."""
    try:
        return _parsed(text)
    except RecursionError:
        raise ConfigError(f"--set {text[:40]}... is nested too deeply to be read") from None


def _parsed(text: str) -> tuple[str, Any]:
    """`"window=64"` -> `("window", 64)`. A value is JSON or plain text; ConfigError if it looks like JSON and is invalid."""
    key, eq, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not eq or not key:
        raise ConfigError(f"--set {text!r} must look like key=value, for example --set window=64")
    if len(value) > LONGEST:
        raise ConfigError(f"--set {key}= has a value of {len(value):,} characters; give at most {LONGEST:,}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError as error:
        if key == "cut_at" and ESCAPES.fullmatch(value):
            found = "is a backslash and a letter, as shells do not interpret it" if value else "is empty"
            like = f'cut_at="{value or NEWLINE}"'
            raise ConfigError(
                f"--set cut_at={value} {found}; write --set {shlex.quote(like)} (JSON), "
                "or leave it out, as a line end is the default"
            ) from None
        if value not in PYTHON and (key == "cut_at" or value[:1] not in {*"{[\"'"}):
            return key, value
        better = mended(value)
        like = f"{key}={better}" if better else 'memory_options={"decay": "channel"}'
        raise ConfigError(
            f"--set {key}={value} is not JSON ({error.msg} at character {error.pos + 1}); JSON has true, false, null, and "
            f"double quotes round names and texts; write {'' if better else 'it like '}--set {shlex.quote(like)}"
        ) from None


def mended(value: str) -> str | None:
    """The JSON that was probably meant, with literals, quotes, commas and closing brackets corrected; None if none is found."""

    def better(found: re.Match[str]) -> str:
        token = found[0]
        if token[0] == "'":
            return json.dumps(token[1:-1], ensure_ascii=False)
        if token[0] == ",":
            return ""
        if token[0] in "-0123456789":
            return json.dumps(token[:-1].strip()) + ":" if found[1] else token
        return token if token[0] == '"' or token in PYTHON.values() else PYTHON.get(token, json.dumps(token))

    for end in ("", "}", "]", "}}", "]}", '"', '"}'):
        try:
            return json.dumps(json.loads(TOKEN.sub(better, value + end)), ensure_ascii=False)
        except json.JSONDecodeError:
            continue
    return None
