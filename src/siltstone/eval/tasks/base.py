"""What a task is: a *token task* has ids of its own and trains a model; a *text task* asks any model with a tokenizer.

Every generator takes its random numbers from the `numpy` generator it is given, and from nothing else.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ...config.registry import NoOptions
from ...errors import InputError
from .reader import Reader

SPLITS = ("train", "test")
UNSCORED = -100  # a target that is not scored


@dataclass(frozen=True)
class Observation:
    """One independent value of a score, at one point of the task (for example {"length": 1024, "depth": 50})."""

    score: str
    value: float
    at: dict[str, int | str]


@dataclass(frozen=True)
class TokenBatch:
    """Streams of a token task.

    ids      int64 [B, T]
    targets  int64 [B, T]: the right next prediction at each place, or -100 where there is no question
    load     int64 [B], things to keep in mind in each stream
    distance int64 [B, T], tokens since the answer was last said; 0 where unknown
    """

    ids: np.ndarray
    targets: np.ndarray
    load: np.ndarray
    distance: np.ndarray


class Task(ABC):
    """A task of either kind. `levels` are the lengths that are tried if the caller names none."""

    kind: ClassVar[str]
    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    levels: ClassVar[tuple[int, ...]] = (512, 1024)
    chance: ClassVar[str] = ""

    def __init__(self, options: Any = None) -> None:
        self.options = type(self).Options() if options is None else options


class TokenTask(Task):
    """A task on ids of its own. A model must be trained on it.

    marks    ids besides the `symbols` of its options
    located  each answer was said at one place, which `distance` gives
    """

    kind = "token"
    levels = (64, 128, 256)
    marks: ClassVar[int] = 0
    located: ClassVar[bool] = True

    @property
    def vocab_size(self) -> int:
        """Number of ids: `symbols` of the options, and the task's `marks`."""
        return self.options.symbols + self.marks

    def by_load(self) -> list[TokenTask]:
        """The task with each of its `loads` alone, if it has such an option: a batch has one load."""
        loads = getattr(self.options, "loads", ())
        return [type(self)(replace(self.options, loads=(load,))) for load in loads] or [self]

    @abstractmethod
    def batch(self, rows: int, length: int, by: np.random.Generator) -> TokenBatch:
        """`rows` streams of `length` tokens. Raises InputError if they have no room for the task."""


@dataclass(frozen=True)
class Asked:
    """A text that ends in a question, for other programs.

    wanted    what an answer contains; with `choices` one text, the right one of them
    """

    text: str
    wanted: Sequence[str]
    choices: Sequence[str] = ()


class TextTask(Task):
    """A task in plain text, zero-shot.

    compared   whether other forms of a decoder can be set beside (`siltstone.eval.beside`): each question goes to a fork
    """

    kind = "text"
    compared: ClassVar[bool] = False

    @abstractmethod
    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        """The observations of item number `item`. `length`: tokens of the document, or of the distance."""

    def questions(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Asked]:
        """The questions of item number `item` as texts; []: the task has none, it measures how likely a text is."""
        return []


def random_numbers(task: str, split: str, *numbers: int) -> np.random.Generator:
    """The generator of one item. Training and test never share one. Raises InputError for another split."""
    if split not in SPLITS:
        raise InputError(f"split={split!r} is not known; choose one of {SPLITS}")
    return np.random.default_rng([zlib.crc32(task.encode()), SPLITS.index(split), *numbers])


def room(name: str, length: int, least: int) -> None:
    """InputError if `length` is too short for the task."""
    if length < least:
        raise InputError(f"length={length} is too short for the task {name}; give at least {least}, or a smaller load")


def empty_batch(rows: int, length: int) -> TokenBatch:
    """A batch of zeros without questions, to be filled in."""
    ids = np.zeros((rows, length), np.int64)
    return TokenBatch(ids, np.full_like(ids, UNSCORED), np.zeros(rows, np.int64), np.zeros_like(ids))
