"""Questions about meetings whose evidence is known: is it among the passages that are attended to?  Source: arXiv 2104.05938.

The file has the form of QMSum: a meeting a line, with `meeting_transcripts` and `specific_query_list`. The evidence of a question
is the turns of its `relevant_text_span`. Plain retrieval with BM25, over passages of the same length, is shown beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, InputError
from ...inference.asking import Span, attended
from ...inference.attending import attends
from ...inference.session import Session
from ...io.parse import parse_object
from ...text import read_blocks
from ..retrieval import bm25
from .base import Observation, TextTask
from .reader import Reader

ASK = "\nQuestion: {}\nAnswer:"


@dataclass(frozen=True)
class Query:
    """A question about a meeting: its turns, the question, and the turns [first, last] that are its evidence."""

    turns: Sequence[str]
    text: str
    evidence: tuple[tuple[int, int], ...]


def queries(path: str | Path) -> list[Query]:
    """The questions of a file. Raises DataError for a file that is not of this form."""
    found: list[Query] = []
    for number, line in enumerate("".join(read_blocks(path)).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found += _meeting(parse_object(line))
        except (KeyError, TypeError, ValueError) as error:
            said = f"it has no {error}" if isinstance(error, KeyError) else str(error)[:200]
            raise DataError(f"{path}, line {number}: this is no meeting of QMSum: {said}") from None
    if not found:
        raise DataError(f"{path} has no question with evidence; give a file of QMSum, one meeting a line")
    return found


def _meeting(given: dict[str, Any]) -> list[Query]:
    turns = [f"{turn['speaker']}: {turn['content']}\n" for turn in given["meeting_transcripts"]]
    found = []
    for one in given["specific_query_list"]:
        spans = tuple((int(span[0]), int(span[1])) for span in one["relevant_text_span"])
        if not all(0 <= first <= last < len(turns) for first, last in spans):
            raise ValueError(f"a span of {spans} is outside of its {len(turns)} turns")
        if spans:
            found.append(Query(turns, str(one["query"]), spans))
    return found


def recall(found: Sequence[Span], evidence: Sequence[Span]) -> tuple[float, float]:
    """Whether a passage overlaps the evidence, and the share of its tokens that the passages cover. All are [first, end)."""
    wanted = {token for first, end in evidence for token in range(first, end)}
    covered = wanted & {token for first, end in found for token in range(first, end)}
    return float(bool(covered)), len(covered) / len(wanted)


@dataclass(frozen=True)
class MeetingsOptions:
    """file: of QMSum; passage: tokens of a passage of BM25, unless the model says what it attended to: then as its own."""

    file: str = ""
    passage: int = 64


class Meetings(TextTask):
    """Questions about meetings: is their evidence among five passages? Needs --meetings FILE.

    A question is one observation. A meeting longer than the length is cut to turns around the evidence."""

    name = "meetings"
    Options = MeetingsOptions
    levels = (8192,)
    chance = "that of BM25 is beside"

    @cached_property
    def _queries(self) -> list[Query]:
        if not self.options.file:
            raise InputError("the task meetings asks questions of a file; give one: --meetings FILE (a file of QMSum)")
        return queries(self.options.file)

    def item(self, reader: Reader, length: int, by: np.random.Generator) -> tuple[list[int], str, list[Span]]:
        """Ids of the text, the question, and the tokens [first, end) of its evidence."""
        for i in by.permutation(len(self._queries)):
            query = self._queries[int(i)]
            ids = [reader.tokenizer.encode(turn) for turn in query.turns]
            at = np.cumsum([0, *map(len, ids)])
            first, last = min(a for a, _ in query.evidence), max(b for _, b in query.evidence)
            if at[last + 1] - at[first] > length:
                continue
            least = max(0, int(at[last + 1]) - length)
            begin = int(at[np.searchsorted(at, by.integers(least, int(at[first]) + 1))])
            begin = min(begin, int(at[first]))
            flat = [token for turn in ids for token in turn][begin : begin + length]
            return flat, query.text, [(int(at[a]) - begin, int(at[b + 1]) - begin) for a, b in query.evidence]
        raise InputError(f"length={length} is too short for the evidence of every question of {self.options.file}")

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        ids, question, evidence = self.item(reader, length, by)
        size, out = self.options.passage, []
        spans = None
        if attends(reader.model):
            session = Session(reader.model, reader.tokenizer)
            session.append(ids)
            spans = attended(reader.asking(session, ASK.format(question)))
        if spans is not None:
            out += self._observed(spans, evidence, length, "")
            size = max(1, round(float(np.mean([end - first for first, end in spans])))) if spans else size
        places = [(first, min(first + size, len(ids))) for first in range(0, len(ids), size)]
        ranked = bm25([reader.tokenizer.decode(ids[first:end]) for first, end in places], question)
        if ranked is not None:
            out += self._observed([places[i] for i in ranked], evidence, length, ", BM25")
        if not out:
            raise InputError(
                "this model does not say what it attends to, and BM25 needs a package: pip install 'siltstone[eval]', "
                "or leave the task meetings out"
            )
        return out

    def _observed(self, spans: Sequence[Span], evidence: Sequence[Span], length: int, by: str) -> list[Observation]:
        found, covered = recall(spans, evidence)
        return [Observation(f"found{by}", found, {"length": length}), Observation(f"covered{by}", covered, {"length": length})]
