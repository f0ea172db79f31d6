"""Passages of documents behind an answer, as the commands on conversations and questions print them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from siltstone.core.interrupt import Interrupts
    from siltstone.inference import Session
    from siltstone.inference.documents import Passage


T = TypeVar("T")


def shower(stop: Interrupts, as_json: bool) -> Callable[..., None]:
    """A function that prints a text and an end, safe for a terminal and without interrupts; nothing where JSON is wanted."""
    from siltstone.core.terminal import shown

    def show(text: str, end: str = "\n") -> None:
        if not as_json:
            with stop.waiting(check=False):
                print(shown(text, sys.stdout), end=end, flush=True)

    return show


def quotable(session: Session) -> bool:
    """Warns of documents of the session that have changed; whether none has."""
    from siltstone.core.terminal import say
    from siltstone.inference.documents import changed, documents

    gone = [one.path for one in documents(session) if changed(one)]
    if gone:
        say(f"warning: {', '.join(gone)} changed after it was read: answers are about the text that was read, without passages")
    return not gone


def or_warned(find: Callable[[], T]) -> T | None:
    """What a function finds; None, with a warning, if it raises DataError: a document changed or went away meanwhile."""
    from siltstone.core.terminal import say
    from siltstone.errors import DataError

    try:
        return find()
    except DataError as error:
        say(f"warning: no passages: {error}")
        return None


def line(number: int, passage: Passage) -> str:
    """A passage with its number (from 0), place and quotation."""
    from siltstone.inference.asking import quoted

    lines, (first, end) = passage.lines, passage.bytes
    where = f"line {lines[0]:,}" if lines[0] == lines[1] else f"lines {lines[0]:,}-{lines[1]:,}"
    return f"[{number + 1}] {passage.path}, {where}, bytes {first:,}-{end:,}: {quoted(passage)}"
