"""Passages of documents behind an answer, as the commands on conversations and questions print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siltstone.inference import Session
    from siltstone.inference.documents import Passage


def quotable(session: Session) -> bool:
    """Warns of documents of the session that have changed; whether none has."""
    from siltstone.core.terminal import say
    from siltstone.inference.documents import changed, documents

    gone = [one.path for one in documents(session) if changed(one)]
    if gone:
        say(f"warning: {', '.join(gone)} changed after it was read: answers are about the text that was read, without passages")
    return not gone


def line(number: int, passage: Passage) -> str:
    """A passage with its number (from 0), place and quotation."""
    from siltstone.inference.asking import quoted

    lines, (first, end) = passage.lines, passage.bytes
    where = f"line {lines[0]:,}" if lines[0] == lines[1] else f"lines {lines[0]:,}-{lines[1]:,}"
    return f"[{number + 1}] {passage.path}, {where}, bytes {first:,}-{end:,}: {quoted(passage)}"
