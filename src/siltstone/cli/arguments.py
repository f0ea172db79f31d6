"""Parsers of arguments that need more checks than those of typer: paths, and numbers without declared limits.

Each function is the `parser` of a parameter; help shows its name as the type.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

THREADS = "Number of CPU threads. [default: 1 for a small model, all for a large one; OMP_NUM_THREADS if it is set]"
NAME, WHOLE = 255, 4095  # maximum bytes of a name and of a path on Linux
LARGEST = 1 << 53  # larger than any count in this project


def unset(help: str, parser: Callable[[Any], Any], metavar: str) -> Any:
    """An option without a default value to show; help shows its value as `metavar`."""
    return typer.Option(help=help, metavar=metavar, parser=parser, show_default=False)


def text(given: Any) -> str:
    """A path, or another word such as -."""
    given = str(given)
    if not given:
        raise typer.BadParameter("it is empty; give a path")
    if "\0" in given:
        raise typer.BadParameter(f"{given[:40]!r} contains a zero byte; give a path")
    try:
        sizes = [len(os.fsencode(part)) for part in given.split("/")]
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{given[:40]!r} is not a valid file name; give a path") from None
    if max(sizes) > NAME or sum(sizes) + len(sizes) > WHOLE:
        raise typer.BadParameter(f"'{given[:40]}...' is too long: a name has at most {NAME} bytes, a path at most {WHOLE:,}")
    return given


def path(given: Any) -> Path:
    """A path."""
    return Path(text(given))


def output(given: Any) -> Path:
    """A path for an output file. It may not exist yet, or be a file (which is replaced), but not a device, pipe or socket."""
    found = path(given)
    try:
        unfit = found.exists() and not found.is_file() and not found.is_dir()
    except OSError as error:
        raise typer.BadParameter(f"{given}: {error.strerror}") from None
    if unfit:
        raise typer.BadParameter(f"{given} is a device, a pipe or a socket; give the name of a file")
    return found


RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a trained model; demo and lookup: those that ship.", parser=path, show_default=False
    ),
]

SpillFolder = Annotated[
    Path | None,
    unset("With cache=blocks: keep blocks in a page file in this folder, which is gone when the command ends.", path, "DIR"),
]

RuntimeName = Annotated[
    str,
    typer.Option(
        help="How steps are computed: eager, compiled, int8 (weights in 8 bits), or auto (eager, and compiled for long texts).",
        metavar="NAME",
    ),
]


def number(given: Any) -> float:
    """A finite number."""
    try:
        found = float(given)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise typer.BadParameter(f"{str(given)[:40]!r} is not a finite number; give one such as 0.5")
    return found


def between(least: int, most: int) -> Any:
    """The parser of whole numbers from `least` to `most`."""

    def integer(given: Any) -> int:
        try:
            found = int(str(given)[:1000])
        except ValueError:
            raise typer.BadParameter(f"{str(given)[:40]!r} is not a whole number; give one such as 100") from None
        if not least <= found <= most:
            allowed = f"at least {least:,}" if found < least else f"at most {most:,}"
            raise typer.BadParameter(f"{str(given)[:40]} is out of range; give a whole number of {allowed}")
        return found

    return integer


def at_least(least: int) -> Any:
    """The parser of whole numbers of at least `least`."""
    return between(least, LARGEST)


integer = at_least(-LARGEST)
seed = between(0, (1 << 64) - 1)

Temperature = Annotated[float, typer.Option(help="0 always takes the most probable token.", parser=number)]
TopK = Annotated[int | None, typer.Option(help="Sample from this many most probable tokens.", parser=integer, show_default=False)]
TopP = Annotated[float, typer.Option(help="Sample from the fewest tokens whose total probability reaches this.", parser=number)]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of the sampler. [default: 0, or the state saved in the session]", show_default=False),
]


def whole_numbers(name: str, given: str | None) -> list[int] | None:
    """The numbers of a list such as "512,4096"; None for None. Raises InputError that names the option."""
    from siltstone.errors import InputError

    if given is None:
        return None
    words = given.split(",")
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise InputError(f"{name} {given[:60]!r} must be whole numbers separated by commas, for example 512,4096")
    return [int(word) for word in words]
