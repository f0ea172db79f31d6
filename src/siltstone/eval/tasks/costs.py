"""Costs of text: a passage repeated at a distance, and bits per byte by position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..position import by_position
from .base import Observation, TextTask
from .reader import Reader

SKIPPED = 3  # first tokens of the second reading, before which a model cannot know that the passage comes again


@dataclass(frozen=True)
class RepeatOptions:
    """passage: tokens of the passage, about."""

    passage: int = 64


class Repeats(TextTask):
    """Nats a token of a passage the first and the second time, after the same `length` tokens of other text.

    "nats, second" has read the passage before that text; "nats, first" has not. The first three tokens count in neither."""

    name = "repeats"
    Options = RepeatOptions
    levels = (0, 100, 1000, 2000)

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        passage = "".join(reader.filler(self.options.passage, by))
        between = "".join(reader.filler(length, by))
        first, second = (
            reader.nats(reader.read(text), passage)[SKIPPED:].mean() for text in ("\n" + between, "\n" + passage + between)
        )
        at: dict[str, int | str] = {"distance": length}
        found = {"nats, first": first, "nats, second": second, "nats saved": first - second}
        return [Observation(score, float(value), at) for score, value in found.items()]


class Position(TextTask):
    """Bits per byte by position: one document of `length` tokens, in buckets of position (`siltstone.eval.by_position`)."""

    name = "position"
    levels = (2048,)

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        text = "".join(reader.filler(2 * length, by))
        found = by_position(reader.model, reader.tokenizer, [text], min(length, reader.count(text)))
        return [
            Observation("bits per byte", bucket["bits_per_byte"], {"length": length, "position": bucket["from"]})
            for bucket in found["buckets"]
        ]
