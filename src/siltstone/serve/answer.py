"""One request's texts: the session with the longest beginning goes on, the rest is read, and `n` texts are written."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..inference.attending import ASKED, attends
from ..inference.batch import Member
from ..inference.likely import Likely
from ..inference.session import Session
from ..inference.work import Writing
from .engine import Engine, Joining
from .figures import Clock, Figures
from .journal import Counts
from .logprobs import Spelling
from .marks import Marks
from .template import Template


@dataclass(frozen=True)
class Prompt:
    """What is read before a text is written.

    items    digests of the beginnings that a kept session may be found by; the last one stands for the whole body
    body     text after which a session is kept; header: what follows it before the text
    ids      ids instead of text; nothing is reused or kept for them
    likely   keeps the probabilities of all tokens of the prompt, which is then read from its beginning
    """

    items: Sequence[str]
    body: str
    header: str = ""
    ids: Sequence[int] | None = None
    likely: Likely | None = None


@dataclass(frozen=True)
class Wanted:
    """How texts are written. top: ids whose probabilities are wanted for each token; None: no probabilities."""

    tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    bias: Mapping[int, float] | None = None
    top: int | None = None


@dataclass
class Choice:
    """One written text.

    tokens    ids that were written; cut: whether the text ends before theirs, at a stop text
    finish    "stop" or "length"
    mark      the name of the session that is kept after it
    spelling  its tokens as text, if their probabilities are wanted
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: str = "stop"
    mark: str | None = None
    spelling: Spelling | None = None
    cut: bool = False
    ended: bool = False

    @property
    def shown(self) -> int | None:
        """Characters whose tokens are given; None: all."""
        return None if self.ended and not self.cut else len(self.text)


@dataclass
class Tools:
    """What an answer is made with."""

    engine: Engine
    marks: Marks
    template: Template
    figures: Figures


class Answer:
    """`async for index, piece in answer.pieces()`; afterwards `choices`; `close` in any case.

    read      tokens of the prompt, of which `cached` were not read again
    """

    def __init__(self, tools: Tools, owner: str, prompt: Prompt, wanted: Wanted, counts: Counts) -> None:
        self.tools, self.owner, self.prompt, self.wanted, self.counts = tools, owner, prompt, wanted, counts
        tok = tools.template.tokenizer
        spellings = [None if wanted.top is None else Spelling(tok, Likely(wanted.top)) for _ in range(wanted.n)]
        self.choices = [Choice(spelling=spelling) for spelling in spellings]
        self.cached = self.read = 0
        self._members: list[Member] = []
        self._joined: list[Joining] = []
        self._slots = 0
        self._clock = Clock(tools.figures)

    @property
    def written(self) -> int:
        """Tokens of all texts."""
        return sum(len(choice.tokens) for choice in self.choices)

    async def begin(self) -> None:
        """Wait for a slot, and read the prompt."""
        tools, prompt = self.tools, self.prompt
        waited = await tools.engine.slot(self.wanted.n)
        self._slots = self.wanted.n
        self.counts.waited += waited
        tools.figures.waited.observe(waited)
        session, length = await asyncio.to_thread(self._found)
        self.cached = session.position
        member = await tools.engine.join(session, self._joined)
        self._members.append(member)
        if prompt.ids is not None:
            await self._feed(member, prompt.ids)
        else:
            await self._feed(member, await self._encoded(prompt.body[length:]))
            if length < len(prompt.body):
                copy = await asyncio.to_thread(member.copy)
                await self._keep(prompt.items[-1], prompt.body, copy, False)
            await self._feed(member, await self._encoded(prompt.header[max(0, length - len(prompt.body)) :]))
        self.read = member.position
        tools.figures.read.inc(self.read - self.cached)
        tools.figures.reused.inc(self.cached)
        self.counts.read += self.read - self.cached
        self.counts.reused += self.cached
        for _ in range(self.wanted.n - 1):
            twin = await asyncio.to_thread(member.copy)
            self._members.append(await tools.engine.join(twin, self._joined))

    async def pieces(self) -> AsyncIterator[tuple[int, str]]:
        """Number of a choice and more of its text, as it is written."""
        wanted = self.wanted
        seed = secrets.randbits(62) if wanted.seed is None else wanted.seed
        works: list[Writing] = [
            member.generate(
                wanted.tokens,
                wanted.temperature,
                top_p=wanted.top_p,
                stop=wanted.stop or None,
                seed=seed + i,
                bias=wanted.bias,
                likely=None if (spelling := self.choices[i].spelling) is None else spelling.likely,
            )
            for i, member in enumerate(self._members)
        ]
        given = [0] * len(works)
        async for _ in self.tools.engine.news(works):
            for i, work in enumerate(works):
                while given[i] < len(work.pieces):
                    given[i] += 1
                    if i == 0:
                        self._clock.piece()
                    self.choices[i].text += work.pieces[given[i] - 1]
                    yield i, work.pieces[given[i] - 1]
        for choice, work in zip(self.choices, works, strict=True):
            choice.text, choice.tokens = "".join(work.pieces), work.tokens
            choice.ended, choice.cut = True, choice.text != self.tools.template.tokenizer.decode(work.tokens)
            choice.finish = "length" if len(work.tokens) == wanted.tokens and not choice.cut else "stop"
        self.tools.figures.written.inc(self.written)
        self.counts.written += self.written

    async def complete(self) -> None:
        """Begin, and write all texts to their ends, for a request that does not stream."""
        await self.begin()
        async for _ in self.pieces():
            pass

    async def keep(self, items: Sequence[str]) -> None:
        """Keep the sessions after their texts. items: what each is found by."""
        if self.prompt.ids is not None:
            return
        before, decode = self.prompt.body + self.prompt.header, self.tools.template.tokenizer.decode
        for choice, member, item in zip(self.choices, self._members, items, strict=True):
            session = await asyncio.to_thread(member.copy)
            choice.mark = await self._keep(item, before + decode(choice.tokens), session, True)
        await asyncio.to_thread(self.tools.marks.thin, self.owner, self.prompt.items)

    async def close(self) -> None:
        """The sessions leave; their slots are free."""
        if self._slots:
            slots, self._slots = self._slots, 0
            await asyncio.shield(self.tools.engine.release(self._joined, slots))

    def _found(self) -> tuple[Session, int]:
        """A session, and the characters of the prompt that it has read."""
        marks, prompt = self.tools.marks, self.prompt
        whole = prompt.ids is not None or prompt.likely is not None
        found = None if whole else marks.find(self.owner, prompt.items, prompt.body + prompt.header)
        return found or (Session(marks.model, marks.tokenizer, marks.runtime), 0)

    async def _encoded(self, text: str) -> list[int]:
        return await asyncio.to_thread(self.tools.template.encode, text)

    async def _keep(self, item: str, text: str, session: Session, durable: bool) -> str:
        return await asyncio.to_thread(self.tools.marks.keep, self.owner, item, text, session, durable)

    async def _feed(self, member: Member, ids: Sequence[int]) -> None:
        asks = attends(self.tools.marks.model)
        for part, now in ((ids[:-ASKED], False), (ids[-ASKED:], True)) if asks else ((ids, False),):
            if part and asks:
                await asyncio.to_thread(setattr, member, "asking", now)
            if part:
                await self.tools.engine.done(member.feed(part, likely=self.prompt.likely))
