"""Texts and files that clients send to sessions, as parts that are read one after the other."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request

from ..errors import InputError, SessionFileError, SessionMismatch, SessionVersion
from ..inference.pieces import pieces
from ..inference.session import Session
from ..text import Tokenizer
from .conversation import sound
from .fields import Append, parsed
from .house import House, kind, read_body, read_json, read_parts
from .marks import Marks
from .problem import bad

MOST_UPLOAD, MOST_FORM = 256 << 20, 32 << 20  # bytes
HELD = 1 << 20  # bytes of an upload in memory; the rest is in a file without a name
PART, SIZE = 1024, 8192  # ids of a part of a text, bytes of a part of a file
RAW, FORM = "application/octet-stream", "multipart/form-data"


@dataclass
class Text:
    """What is appended. name: equal for equal contents; parts of ids, each with the share of the whole that is then read.

    asking   what `Session.asking` is set to before; None: it stays
    """

    name: Any
    stream: bool
    ids: Sequence[int] | None = None
    file: BinaryIO | None = None
    size: int = 0
    asking: bool | None = None

    async def parts(self, tokenizer: Tokenizer) -> AsyncIterator[tuple[list[int], float]]:
        """Raises Problem for a file that is not UTF-8."""
        if self.ids is not None:
            for at in range(0, len(self.ids), PART):
                part = list(self.ids[at : at + PART])
                yield part, (at + len(part)) / len(self.ids)
            return
        assert self.file is not None
        self.file.seek(0)
        source, done = pieces(self.file, tokenizer=tokenizer, size=SIZE), 0
        while (piece := await asyncio.to_thread(next, source, None)) is not None:
            done += len(piece)
            yield await asyncio.to_thread(_ids, tokenizer, piece), done / self.size

    def close(self) -> None:
        """Forget the file."""
        if self.file is not None:
            self.file.close()


async def appended(house: House, request: Request) -> Text:
    """What a request appends: fields in JSON, or a file of text. Raises Problem."""
    if kind(request) not in (RAW, FORM):
        body = await read_json(request)
        given = parsed(Append, body)
        return Text(body, bool(given.stream), ids=await given_ids(house, given.text, given.ids), asking=given.asking)
    stream = request.query_params.get("stream", "false")
    if stream not in ("true", "false"):
        raise bad("stream", "stream must be true or false.")
    file, size, digest = await received(request)
    return Text([digest, stream], stream == "true", file=file, size=size)


async def given_ids(house: House, text: str | None, ids: Sequence[int] | None) -> list[int]:
    """The ids of a text, or those that were given. Raises Problem."""
    if (text is None) == (ids is None):
        raise bad("text", "Give text or ids.")
    if text is not None:
        return await asyncio.to_thread(house.tokenizer.encode, sound(text, "text"))
    if ids and max(ids) >= house.tokenizer.vocab_size:
        raise bad("ids", f"ids has {max(ids)}; ids are 0 to {house.tokenizer.vocab_size - 1}.")
    return list(ids or ())


def loaded(marks: Marks, source: BinaryIO) -> Session:
    """The session of a file that a client sent. Raises Problem; its message names no path."""
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder:
        file = Path(folder) / "upload.silt"
        with open(file, "wb") as copy:
            source.seek(0)
            shutil.copyfileobj(source, copy)
        try:
            session = Session.load(file, marks.model, marks.tokenizer, marks.runtime)
        except SessionMismatch:
            raise bad(None, "The file is of a session with another model or tokenizer.") from None
        except SessionVersion:
            raise bad(None, "The file was written by a newer Siltstone.") from None
        except SessionFileError:
            raise bad(None, "The file is no session file, or it is damaged.") from None
    if not session.position:
        raise bad(None, "The session of this file has read nothing.")
    return session


async def received(request: Request) -> tuple[BinaryIO, int, str]:
    """A file that is the body, or the one file of a form: the file, its bytes, and their digest. Raises Problem."""
    file: Any = tempfile.SpooledTemporaryFile(HELD)
    try:
        digest, size = hashlib.sha256(), 0
        async for part in _content(request, kind(request) == FORM):
            digest.update(part)
            size += len(part)
            file.write(part)
    except BaseException:
        file.close()
        raise
    return file, size, digest.hexdigest()


async def _content(request: Request, form: bool) -> AsyncIterator[bytes]:
    if form:
        yield _of_form(request, await read_body(request, MOST_FORM))
        return
    async for part in read_parts(request, MOST_UPLOAD):
        yield part


def _of_form(request: Request, body: bytes) -> bytes:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode("latin-1")
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    files = [part for part in message.iter_parts() if part.get_filename() is not None] if message.is_multipart() else []
    if len(files) != 1:
        raise bad("file", f"The form must have one file, and it has {len(files)}.")
    content = files[0].get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _ids(tokenizer: Tokenizer, piece: bytes) -> list[int]:
    try:
        return tokenizer.encode(piece.decode("utf-8"))
    except (UnicodeDecodeError, InputError):
        raise bad("file", "The file is not text in UTF-8; nothing was appended.") from None
