"""Files and lines with a checksum: any other spelling of the same values is an alteration, as every other change of a byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from siltstone.io import checked_line, read_checked, read_lines, write_checked

VALUE = {"rate": 3e-05, "name": "\u00fc/n", "counts": [1.0, 0], "none": None}
SPELLINGS = {
    "exponent in capitals": ("3e-05", "3E-05"),
    "exponent without a zero": ("3e-05", "3e-5"),
    "exponent with a point": ("3e-05", "3.0e-05"),
    "one digit more": ("1.0", "1.00"),
    "minus zero": (" 0", " -0"),
    "capital hexadecimal digits": ("\\u00fc", "\\u00FC"),
    "not escaped": ("\\u00fc", "\u00fc"),
    "escaped": ("/n", "\\/n"),
    "a space more": ('"none":', '"none" :'),
    "a space less": ('"none": ', '"none":'),
    "a space at the end": ("}", "} "),
    "a space before": ("{", " {"),
}


def respelled(text: str, name: str) -> str:
    old, new = SPELLINGS[name]
    assert text.count(old) == 1
    return text.replace(old, new)


def flipped(data: bytes, step: int = 1) -> Iterator[bytes]:
    """The data with one bit changed, for each bit of `step`."""
    for bit in range(0, 8 * len(data), step):
        yield data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("name", SPELLINGS)
def test_lines_are_checked_as_bytes(name: str) -> None:
    line = checked_line(VALUE)
    assert read_lines(line + line) == [VALUE, VALUE]
    assert read_lines(respelled(line, name) + line) == [None, VALUE]


@pytest.mark.parametrize("name", SPELLINGS)
def test_files_are_checked_as_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_checked(path, VALUE)
    assert read_checked(path) == (VALUE, True)
    path.write_text(respelled(path.read_text("ascii"), name), "utf-8")
    with pytest.raises(ValueError, match="altered after it was written"):
        read_checked(path)


def test_every_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_checked(path, VALUE)
    line, data = checked_line(VALUE), path.read_bytes()
    for changed in flipped(line.encode("ascii")[:-1]):
        assert VALUE not in read_lines(changed.decode("utf-8", "replace") + "\n" + line)[:-1]
    for changed in flipped(data, 7):
        path.write_bytes(changed)
        with pytest.raises(ValueError):
            read_checked(path)


def test_early_versions_have_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"rate":3E-05}', "ascii")
    assert read_checked(path) == ({"rate": 3e-05}, False)
    assert read_lines('{"rate":3E-05}\n{"rate": 1}\n') == [{"rate": 3e-05}, {"rate": 1}]
    assert read_lines(checked_line(VALUE) + '{"rate": 1}\n') == [VALUE, None]  # every line has it, or none
    for odd in ('{"sealed": true}', '{"sha256": null}', '{"sealed": false, "rate": 1}'):
        path.write_text(odd, "ascii")
        with pytest.raises(ValueError, match="altered"):
            read_checked(path)
