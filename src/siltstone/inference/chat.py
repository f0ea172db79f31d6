"""A conversation with a model: turns as the chat template of its tokenizer writes them, each read once.

A turn is rendered behind a stand-in for the reply before it, and what follows the stand-in is read: the end of that reply, the
user's text, the beginning of the next reply. The history is neither kept nor read again: a conversation has no maximum length.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from ..errors import InputError, SessionCorrupt, TokenizerError
from ..text import Tokenizer
from .documents import BETWEEN, under
from .form import Form
from .sampling import StopStrings
from .session import Session
from .template import MEND, Message

_UNUSED = [chr(0xFDD0 + i) for i in range(32)]  # code points that Unicode keeps free for such uses
NOTE = "chat"
OPENED = "opened"  # the note of the template with which documents were begun


class Turns(Form):
    """The texts of turns, in tokens. template: see `Form`.

    Special tokens are read as such where the template writes them. In a user's text they are read as plain text.

    stop    strings and ids that end a reply, besides the tokenizer's own
    Raises TokenizerError for a template that cannot be used.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None = None) -> None:
        super().__init__(tokenizer, template)
        self.end = ""
        self.stop = self._stop()

    @property
    def digest(self) -> str:
        """SHA-256 of the template, in hexadecimal."""
        return hashlib.sha256(self.template.source.encode("utf-8", "surrogatepass")).hexdigest()

    def first(self, text: str, system: str | None = None, fresh: bool = True) -> list[int]:
        """The beginning of a conversation. fresh: at the beginning of the session, so that the template's `bos_token` is read."""
        return self._written(system, [("user", text)], names=None if fresh else {"bos_token": ""})

    def next(self, text: str, system: str | None = None, met: bool = False) -> list[int]:
        """A later turn. met: the string that ends the reply before it was read."""
        return self._written(system, [("user", "Hello"), ("assistant", None), ("user", text)], skip=self.end if met else "")

    def opening(self, system: str | None = None) -> list[int]:
        """The beginning of a user's text that begins with documents; with the plain template, they stand before it."""
        return [] if self.plain else self._written(system, [("user", None)], before=True)

    def reopening(self, system: str | None = None, met: bool = False) -> list[int]:
        """The same behind a reply; with the plain template, what separates documents from it. met: as in `next`."""
        if self.plain:
            return self.tokenizer.encode(BETWEEN)
        here, there, mark = _free(system or "", 3)
        rendered = self._rendered(system, [("user", "Hello"), ("assistant", here), ("user", there)])
        return self._ids(rendered.partition(here)[2].partition(there)[0].removeprefix(self.end if met else ""), mark)

    def behind(self, text: str) -> list[int]:
        """A user's text behind documents."""
        if self.plain:
            return self.tokenizer.encode(BETWEEN) + self._written(None, [("user", text)])
        return self._written(None, [("user", None)], behind=BETWEEN + text)

    def begun(self, text: str) -> list[int]:
        """Ids of the first words of a reply."""
        if not text:
            return []
        spaced = self._rendered(None, [("user", "Hello")])[-1:].isspace() or text[:1].isspace()
        return self.tokenizer.encode(text if spaced else f" {text}")

    def _stop(self) -> list[str | int]:
        """What ends a reply: the special token behind it, or else the text before the next user's."""
        here, there = _UNUSED[:2]
        text = self._rendered(None, [("user", "Hello"), ("assistant", here), ("user", there)])
        if text.count(here) != 1 or text.count(there) != 1 or text.index(here) > text.index(there):
            raise TokenizerError(f"the chat template does not write each message once and in order; {MEND}")
        between = text[text.index(here) + 1 : text.index(there)]
        special = self.special and self.special.search(between)
        if special is not None and not between[: special.start()].strip():
            return [self.specials[special[0]]]
        self.end = between.rstrip()
        return [self.end] if self.end else []

    def _rendered(self, system: str | None, said: list[tuple[str, str]], names: dict[str, str] | None = None) -> str:
        said = ([("system", system)] if system is not None else []) + said
        return self.template.render([Message(role=role, content=text) for role, text in said], True, names)

    def _written(
        self,
        system: str | None,
        said: list[tuple[str, str | None]],
        *,
        behind: str = "",
        before: bool = False,
        skip: str = "",
        names: dict[str, str] | None = None,
    ) -> list[int]:
        """Ids of the rendered messages. A message without a text is a stand-in, which `behind` follows: the ids are of what
        follows the stand-in, or of what stands before it. skip: left out at their beginning. names: other special tokens."""
        given = "".join([system or "", behind, *(text or "" for _, text in said)])
        mark, here = _free(given, 2)
        safe = [(role, here + self._guarded(behind, mark) if text is None else self._guarded(text, mark)) for role, text in said]
        rendered = self._rendered(None if system is None else self._guarded(system, mark), safe, names)
        if safe[-1][1].strip() not in rendered:
            raise TokenizerError(f"the chat template leaves out the user's text, or changes it; {MEND}")
        if here in rendered:
            rendered = rendered.split(here)[0 if before else 1]
        return self._ids(rendered.removeprefix(skip), mark)

    def _guarded(self, text: str, mark: str) -> str:
        """A user's text, with numbers for what looks like special tokens."""
        if self.special is None:
            return text
        return self.special.sub(lambda found: f"{mark}{self.specials[found[0]]}{mark}", text)

    def _ids(self, text: str, mark: str) -> list[int]:
        names = {str(id_): name for name, id_ in self.specials.items()}
        parts = [text] if self.special is None else re.split(f"({self.special.pattern})", text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self.specials[part])
            elif part:
                ids += self.tokenizer.encode(re.sub(f"{mark}([0-9]+){mark}", lambda found: names[found[1]], part))
        return ids


def _free(text: str, count: int) -> list[str]:
    """Characters that a text does not have. Raises InputError if too few are left."""
    free = [x for x in _UNUSED if x not in text][:count]
    if len(free) < count:
        raise InputError("the text has too many of the characters U+FDD0 to U+FDEF, which mean nothing; leave them out")
    return free


class Chat:
    """`chat = Chat(session)`; `for piece in chat.turn("Hello"): ...`. The session may have read other text before, or documents.

    system      a text for the template's system message; only at the beginning of a conversation
    template    Jinja; None: that of the tokenizer, or the plain one if it has none; "": the plain one
    turns       turns so far; kept in the session's notes, so that a saved session continues its conversation
    whole       whether the last reply came to its end, and not to its maximum number of tokens or an interrupt

    Raises TokenizerError for a template that cannot be used, InputError for another template or system text than the
    conversation, or the documents before it, began with; SessionCorrupt for invalid notes.
    """

    def __init__(self, session: Session, system: str | None = None, template: str | None = None) -> None:
        for name, text in (("system", system), ("template", template)):
            if not isinstance(text, str | None):
                raise InputError(f"{name}={text!r:.60} must be a text, or None")
        self.session, self._turns, self.whole = session, Turns(session.tokenizer, template), True
        self._begun, self.system = "", system
        self._restore()
        if session.notes.get(OPENED, self._turns.digest) != self._turns.digest:
            raise InputError(
                "this session's documents were read with another chat template; use the same one, or begin a new session"
            )
        if NOTE not in session.notes and system is not None and under(session):
            raise InputError("the system text stands before documents, and this session has read documents; leave it out")
        if self.turns and system not in (None, self.system):
            raise InputError("the system text begins a conversation, and this session is in one; begin a new session")

    def _restore(self) -> None:
        """Take over the conversation of the session's notes: the session may have gone back to a mark."""
        note = self.session.notes.get(NOTE)
        if note is None:
            self.turns, self._met, self._open = 0, False, False
            return
        kinds = {"turns": int, "met": bool, "open": bool, "system": str | None, "template": str}
        note = {"open": False, **note} if isinstance(note, dict) else {}  # earlier versions had no `open`
        if not all(isinstance(note.get(key, ()), kind) for key, kind in kinds.items()):
            raise SessionCorrupt(f"the session's note of its conversation is invalid: {self.session.notes[NOTE]!r}"[:300])
        if note["template"] != self._turns.digest:
            raise InputError("this session's conversation has another chat template; use the same one, or begin a new session")
        self.turns, self._met, self._open, self.system = (note[key] for key in ("turns", "met", "open", "system"))

    def open(self) -> None:
        """Begin a user's text that documents follow: at the beginning of a session, and behind a reply. Otherwise nothing is
        read: behind documents, and behind text that is no conversation."""
        self._restore()
        if self.session.position == 0:
            self.session.append(self._turns.opening())
            self.session.notes[OPENED] = self._turns.digest
        elif self.turns and not self._open:
            self.session.append(self._turns.reopening(self.system, self._met))
            self._met, self._open = False, True
            self._keep()

    def read(self, text: str, begin: str = "") -> int:
        """Read a user's turn; returns its number of tokens. After an error or an interrupt the session is as before.

        begin   the first words of the reply: small models often continue a text instead of answering
        """
        if not isinstance(begin, str):
            raise InputError(f"begin={begin!r:.40} must be a text: the first words of the reply")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"the user's text is {f'a {type(text).__name__}' if text else 'empty'}; give some text")
        self._restore()
        ids, mark = self._ids(text) + self._turns.begun(begin), self.session.snapshot()
        try:
            self.session.asking = True
            self.session.append(ids)
        except BaseException:
            self.session.rollback(mark)
            raise
        finally:
            mark.release()
        self.turns, self._met, self._open, self._begun = self.turns + 1, False, False, begin
        self._keep()
        return len(ids)

    def _ids(self, text: str) -> list[int]:
        if self.turns and not self._open:
            return self._turns.next(text, self.system, self._met)
        if under(self.session):
            return self._turns.behind(text)
        return self._turns.first(text, self.system, fresh=self.session.position == 0)

    def reply(
        self,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = 0.95,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The reply in pieces, as of `Session.generate`; it may be left at any piece. What ends it is not yielded; what `read`
        was given as its beginning is the first piece."""
        ends = [x for x in self._turns.stop if isinstance(x, int)]
        stops, before = StopStrings([x for x in self._turns.stop if isinstance(x, str)]), self._begun
        pieces, end = self.session.generate(max_new_tokens, temperature, top_k, top_p, None, seed, ends), self.session.position
        self.whole, end = False, end + max_new_tokens
        if before:
            self._begun = ""
            yield before
        for piece in pieces:
            shown, met = stops.push(piece)
            shown, before = (shown if before else shown.lstrip()), before + shown.strip()
            if met:
                self._met = self.whole = True
                self._keep()
            if shown:
                yield shown
            if met:
                return
        self.whole = self.session.position < end
        rest = stops.finish()
        if rest:
            yield rest

    def turn(self, text: str, **options: Any) -> Iterator[str]:
        """Read a user's turn, and yield the reply in pieces. options: those of `reply`."""
        self.read(text)
        yield from self.reply(**options)

    def _keep(self) -> None:
        self.session.notes[NOTE] = {
            "turns": self.turns,
            "met": self._met,
            "open": self._open,
            "system": self.system,
            "template": self._turns.digest,
        }
