"""Costs of text: a passage repeated at a distance, the same passage deep and shallow in a text, and bits per byte by position."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class DepthOptions:
    """passage: tokens of the passage, about; shallow: tokens before it in the short text, at most (and at most
    half of the long text)."""

    passage: int = 1024
    shallow: int = 1024


class Depth(TextTask):
    """Bits per byte of a passage after `length` tokens of its book, and after only the last `shallow` of them.

    Both read the same passage: "deep minus shallow" is paired. Below 0, the distant text helps; above 0, it harms."""

    name = "depth"
    Options = DepthOptions
    levels = (32768,)

    def _shallow(self, length: int) -> int:
        return min(self.options.shallow, length // 2)

    def item(self, reader: Reader, length: int, by: np.random.Generator) -> tuple[str, str, str]:
        """The long text, its last part, and the passage after both."""
        options, shallow = self.options, self._shallow(length)
        sentences = reader.filler(length + options.passage, by)
        counts = np.cumsum([reader.count(sentence) for sentence in reversed(sentences)])
        last = max(1, int(np.searchsorted(counts, options.passage, "right")))
        near = max(last + 1, int(np.searchsorted(counts, counts[last - 1] + shallow, "right")))
        before, passage = sentences[:-last], sentences[-last:]
        return "".join(before), "".join(sentences[-near:-last]), "".join(passage)

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        deep, shallow, passage = self.item(reader, length, by)
        scale = math.log(2) * len(passage.encode("utf-8"))
        far, near = (float(reader.nats(reader.read(text), passage).sum()) / scale for text in (deep, shallow))
        at: dict[str, int | str] = {"length": length, "shallow": self._shallow(length)}
        found = {"bits per byte, deep": far, "bits per byte, shallow": near, "deep minus shallow": far - near}
        return [Observation(score, value, at) for score, value in found.items()]


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
