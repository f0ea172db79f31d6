"""Checks that the regular expression of a pre-tokenizer is safe to run.

The `tokenizers` library matches by backtracking and cannot be interrupted. A pattern is accepted if the number of steps of one
match attempt is linear in the text, up to a constant; a scan is then at most quadratic, and linear in practice.
This follows from its structure (docs/decisions/0018-tokenizers-are-proved.md):

- a group that can match in several ways is not repeated if a part after it can fail: no `(a+)+b`;
- at most one unbounded quantifier of a branch has a part after it that can fail: no `.*.*x`, and no
  `.*a*+x`, where the second quantifier does not backtrack but is run again for each try of the first;
- bounded choices multiply to at most 1,000, or 40 with an unbounded quantifier; the expanded pattern has at most 10,000 parts;
- no back references, recursion, conditions or free spacing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import TokenizerError
from .library import quoted

LONGEST = 4096  # maximum characters of a pattern
WAYS = (1000, 40)  # maximum bounded choices at one place, without and with an unbounded repetition there
SIZE, DEPTH, BOUNDED = 10_000, 16, 64
_ATOM = re.compile(
    r"[^\\\[()|?*+^$]|\\(?:[^0-9A-Za-z]|[dDfehHnNOrsStvawW]|"
    r"[pP]\{\^?[\w \-]+\}|x\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})",
    re.S,
)
_ANCHOR = re.compile(r"\\[AbBzZ]|[\^$]")
_GROUP = re.compile(r"\((?:\?(?::|>|[im]+:|[im]*-[im]+:)|(?![?*]))")
_LOOK = re.compile(r"\(\?<?[=!]")
_TIMES = re.compile(r"\{(\d{0,6})(,?)(\d{0,6})\}")


@dataclass(frozen=True)
class _Part:
    """A part of a pattern: a character, an assertion (`look`), a repetition, a sequence, or a choice of sequences."""

    kind: str
    parts: tuple[_Part, ...] = ()
    low: int = 1
    high: int | None = 1
    keeps: bool = False  # possessive: does not backtrack

    @property
    def fixed(self) -> bool:
        """Whether it matches in only one way, and does not match the empty text."""
        if self.kind == "choice" and len(self.parts) > 1 or self.kind == "look":
            return False
        if self.kind == "repeat" and (self.low != self.high or not self.low):
            return False
        return self.kind == "character" or bool(self.parts) and all(p.fixed for p in self.parts)

    @property
    def fails(self) -> bool:
        """Whether there is a text that it does not match."""
        if self.kind == "repeat":
            return self.low > 0 and self.parts[0].fails
        if self.kind == "choice":
            return all(p.fails for p in self.parts)
        return self.kind != "sequence" or any(p.fails for p in self.parts)

    @property
    def size(self) -> int:
        inner = max(1, sum(p.size for p in self.parts))
        return inner * max(self.low, self.high or 1, 1) if self.kind == "repeat" else inner


def check_pattern(pattern: str, where: str) -> None:
    """Raises TokenizerError for a pattern that may take very long or has unknown syntax. where: its place, for the message."""
    try:
        if len(pattern) > LONGEST:
            raise _Unsafe(f"it has {len(pattern):,} characters; at most {LONGEST:,} are allowed")
        part = _Reader(pattern).whole()
        if part.size > SIZE:
            raise _Unsafe(f"its counted repetitions expand to more than {SIZE:,} parts")
        ways, runs = _cost(part, False)
        if runs > 1:
            raise _Unsafe("two unbounded repetitions of a branch can backtrack against each other")
        if ways > WAYS[runs]:
            raise _Unsafe(f"it can be tried in more than {WAYS[runs]:,} ways at one place")
    except _Unsafe as why:
        raise TokenizerError(
            f"{where} has the regular expression {quoted(pattern, 80)}, which is not accepted because {why}; "
            "use one of the published patterns (GPT-2, cl100k, o200k, Llama 3, Qwen), or one without nested repetitions"
        ) from None


class _Unsafe(Exception):
    """The reason why a pattern is not accepted."""


def _cost(part: _Part, after: bool) -> tuple[int, int]:
    """Numbers of bounded choices and of unbounded repetitions that are tried again when a later part fails.

    after   whether a later part can fail
    """
    if part.kind == "character":
        return 1, 0
    if part.kind == "look":
        return _cost(part.parts[0], True) if part.parts else (1, 0)
    if part.kind == "choice":
        costs = [_cost(p, after) for p in part.parts]
        return sum(ways for ways, _ in costs), max(runs for _, runs in costs)
    if part.kind == "sequence":
        ways, runs = 1, 0
        for inner in reversed(part.parts):
            more = _cost(inner, after)
            ways, runs = ways * more[0], runs + more[1]
            after = after or inner.fails
        return ways, runs
    inner, again = part.parts[0], after and not part.keeps
    endless = part.high is None or part.high > BOUNDED
    if part.high == 1:
        ways, runs = _cost(inner, after)
        return ways + 1, runs
    if not inner.fixed:
        if again:
            raise _Unsafe("it repeats a group that can match in several ways")
        ways, runs = _cost(inner, True)
        return ways, runs + int(after and endless)
    if part.high is None or endless:
        return 1, int(after)
    return part.high - part.low + 1 if again else 1, 0


class _Reader:
    """A parser of the patterns' grammar; unknown syntax is not accepted."""

    def __init__(self, pattern: str) -> None:
        self.text, self.at = pattern, 0

    def whole(self) -> _Part:
        found = self.choice(0)
        if self.at < len(self.text):
            raise self.unknown()
        return found

    def unknown(self) -> _Unsafe:
        return _Unsafe(f"{quoted(self.text[self.at : self.at + 8])} at character {self.at} is not understood")

    def take(self, what: re.Pattern[str]) -> re.Match[str] | None:
        found = what.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def next(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def choice(self, depth: int) -> _Part:
        if depth > DEPTH:
            raise _Unsafe(f"its groups are nested more than {DEPTH} deep")
        branches = [self.sequence(depth)]
        while self.next("|"):
            branches.append(self.sequence(depth))
        return _Part("choice", tuple(branches))

    def sequence(self, depth: int) -> _Part:
        parts = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self.repeated(self.single(depth)))
        return _Part("sequence", tuple(parts))

    def single(self, depth: int) -> _Part:
        if self.take(_ANCHOR):
            return _Part("look")
        for opening, kind in ((_LOOK, "look"), (_GROUP, "")):
            if self.take(opening):
                inner = self.choice(depth + 1)
                if not self.next(")"):
                    raise self.unknown()
                return _Part(kind, (inner,)) if kind else inner
        if self.next("["):
            self.set()
        elif not self.take(_ATOM):
            raise self.unknown()
        return _Part("character")

    def set(self) -> None:
        """The rest of a set of characters; sets may be nested."""
        self.next("^")
        if self.next("]"):
            raise self.unknown()
        depth = 1
        while depth:
            if self.at >= len(self.text):
                raise _Unsafe("a set of characters does not end")
            if self.next("["):
                depth += 1
                self.next("^")
            elif self.next("]"):
                depth -= 1
            else:
                self.at += 2 if self.text[self.at] == "\\" else 1

    def repeated(self, part: _Part) -> _Part:
        counted = False
        if self.next("?"):
            low, high = 0, 1
        elif self.next("*"):
            low, high = 0, None
        elif self.next("+"):
            low, high = 1, None
        elif (found := _TIMES.match(self.text, self.at)) and (found[1] or found[3]):
            self.at, counted = found.end(), True
            low = int(found[1] or 0)
            high = (int(found[3]) if found[3] else None) if found[2] else low
            if high is not None and low > high:
                raise _Unsafe(f"{found[0]} has a minimum above its maximum")
        else:
            return part
        if counted and self.next("?"):  # lazy, or optional, by dialect; the more expensive meaning is assumed
            part = _Part("sequence", (_Part("repeat", (part,), 0, high), _Part("look")))
        elif self.next("?"):  # lazy
            part = _Part("repeat", (part,), low, high)
        elif counted and self.next("+"):  # the library's dialect repeats the counted part
            part = _Part("repeat", (_Part("repeat", (part,), low, high),), 1, None)
        else:
            part = _Part("repeat", (part,), low, high, keeps=not counted and self.next("+"))
        if self.at < len(self.text) and (self.text[self.at] in "?*+" or _TIMES.match(self.text, self.at)):
            raise _Unsafe("a repetition is itself repeated")
        return part
