"""JSON from strangers: what is read, and what is refused with a reason."""

from __future__ import annotations

import json

import pytest

from siltstone.io.parse import is_count, parse_json, parse_object


@pytest.mark.parametrize("value", [{}, {"a": [1, -2.5e3, "é", None, True, {"b": []}]}, [[]] * 3, 2**63 - 1, -(2**63), 0.1, "\0"])
def test_what_json_has_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8")) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NaN", "not JSON"),
        ("[-Infinity]", "not JSON"),
        ("1e999", "out of the range of a float"),
        ("9" * 5000, "5000 digits"),
        ("-" + "9" * 21, "digits"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ("[" * 100_000, "nested"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested"),
        (b"\xff{}", "decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
    ],
)
def test_what_json_has_not_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_the_deepest_value_that_is_read() -> None:
    assert parse_json("[" * 64 + "]" * 64)


def test_an_object_is_asked_for() -> None:
    with pytest.raises(ValueError, match="must be an object, and it is a list"):
        parse_object("[]")


@pytest.mark.parametrize(
    ("value", "fits"), [(0, True), (2**62 - 1, True), (2**62, False), (-1, False), (True, False), (1.0, False)]
)
def test_counts(value: object, fits: bool) -> None:
    assert is_count(value) is fits
