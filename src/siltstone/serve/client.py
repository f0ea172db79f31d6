"""`st.connect(url, key)`: sessions of a server, with the methods of local ones. It needs nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ..errors import InputError, ServerError
from ..io import atomic_file

TIMEOUT = 600.0  # seconds


class Connection:
    """`server = st.connect("http://127.0.0.1:8000", key)`; `s = server.session()`; `s.append("text")`; `s.generate(20)`.

    Raises InputError for an address that is none, and ServerError if the server cannot be reached or refuses.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"url={url!r:.100} is no address of a server; give one such as http://127.0.0.1:8000")
        self._parts, self._key = parts, key

    def session(self, tags: dict[str, str] | None = None, ttl: float | None = None) -> RemoteSession:
        """A new session. ttl: seconds without use after which it expires; None: as the server says."""
        return RemoteSession(self, self.call("POST", "/sessions", {"tags": tags or {}, "ttl": ttl}))

    def sessions(self, tags: dict[str, str] | None = None) -> list[RemoteSession]:
        """The sessions of this key, newest first; 1,000 at most. tags: those that have all of them."""
        query = urlencode([("tag", f"{name}:{value}") for name, value in (tags or {}).items()])
        return [RemoteSession(self, body) for body in self.call("GET", f"/sessions?{query}")["data"]]

    def open(self, id: str) -> RemoteSession:
        """The session of this name."""
        return RemoteSession(self, self.call("GET", f"/sessions/{quote(id, safe='')}"))

    def load(self, path: str | os.PathLike[str]) -> RemoteSession:
        """A new session from the file of a session, which is sent."""
        content = Path(path).read_bytes()
        with self.answer("POST", "/sessions/upload", content, "application/octet-stream") as got:
            return RemoteSession(self, json.loads(got.read()))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that the server answers."""
        content = None if method in ("GET", "DELETE") else json.dumps(body or {}).encode()
        with self.answer(method, path, content) as got:
            return json.loads(got.read())

    def answer(self, method: str, path: str, content: bytes | None, kind: str = "application/json") -> http.client.HTTPResponse:
        """The server's answer, whose status is 200."""
        secure = self._parts.scheme == "https"
        cls = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        line = cls(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT)
        headers = {"Connection": "close"} | ({} if content is None else {"Content-Type": kind})
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            line.request(method, self._parts.path.rstrip("/") + path, content, headers)
            got = line.getresponse()
        except (OSError, http.client.HTTPException) as error:
            line.close()
            raise ServerError(f"the server {self._parts.netloc} cannot be reached: {error}") from None
        if got.status != 200:
            with got:
                raise _refused(got.status, got.read())
        return got


class RemoteSession:
    """A session of a server. One call at a time: the server refuses a second one with status 409."""

    def __init__(self, server: Connection, body: dict[str, Any]) -> None:
        self._server, self._body = server, body

    def __repr__(self) -> str:
        return f"RemoteSession({self.id}, position={self.position})"

    @property
    def id(self) -> str:
        """The name of the session."""
        return self._body["id"]

    @property
    def position(self) -> int:
        """Tokens so far."""
        return self._body["position"]

    @property
    def tags(self) -> dict[str, str]:
        """Names and values that its clients give it."""
        return self._body["tags"]

    @property
    def marks(self) -> dict[str, int]:
        """The names of marks that `rollback` takes, and their positions."""
        return {mark["id"]: mark["position"] for mark in self.refresh()["marks"]}

    def refresh(self) -> dict[str, Any]:
        """The session as the server has it now, also if another client has changed it."""
        self._body = self._server.call("GET", f"/sessions/{self.id}")
        return self._body

    def update(self, tags: dict[str, str] | None = None, ttl: float | None = None) -> None:
        """Other tags, another time to live in seconds; None: as before."""
        self._body = self._server.call("POST", f"/sessions/{self.id}", {"tags": tags, "ttl": ttl})

    def append(
        self, text: str | Sequence[int], progress: Callable[[float], object] | None = None, asking: bool | None = None
    ) -> None:
        """See `Session.append`. progress: is called with the share of the text that was read, from 0 to 1. asking: what
        `Session.asking` is set to before, for models with cache="blocks"; None: it stays."""
        body = _text(text) | ({} if asking is None else {"asking": asking})
        if progress is None:
            self._body = self._do("append", body)
        else:
            content = json.dumps(body | {"stream": True}).encode()
            self._read("append", content, "application/json", progress)

    def append_file(self, path: str | os.PathLike[str], progress: Callable[[float], object] | None = None) -> None:
        """Read a file of text, in UTF-8, which is sent. All of it is appended, or nothing."""
        self._read("append?stream=true", Path(path).read_bytes(), "application/octet-stream", progress)

    def find(self, text: str, limit: int = 10) -> list[dict[str, Any]]:
        """Where the session has read or written a text: `first` and `end`, positions of tokens; `text`, and what stands `before`
        and `after` it."""
        return self._do("find", {"text": text, "limit": limit})["data"]

    def attended(self, question: str, limit: int = 10) -> list[dict[str, Any]]:
        """What a question attends to, the most first: as `find`, with a `weight`; for models with cache="blocks". The session
        does not change."""
        return self._do("find", {"question": question, "limit": limit})["data"]

    def score(self, text: str | Sequence[int]) -> list[float]:
        """See `Session.score`."""
        return [float("nan") if x is None else x for x in self._do("score", _text(text))["logprobs"]]

    def generate(
        self,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """See `Session.generate`. The session moves at the end; if the iterator is given up before it, the session stays, unless
        the server was at the end already (`refresh` tells)."""
        stop = stop if stop is None or isinstance(stop, str) else list(stop)
        body = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "stop": stop, "seed": seed}
        content = json.dumps(body | {"stream": True}).encode()
        for told in self._told("generate", content, "application/json"):
            if "piece" in told:
                yield told["piece"]

    def fork(self) -> RemoteSession:
        """See `Session.fork`."""
        return RemoteSession(self._server, self._do("fork"))

    def snapshot(self) -> str:
        """The name of a mark for `rollback`."""
        return self._do("mark")["id"]

    def rollback(self, mark: str) -> None:
        """See `Session.rollback`."""
        self._body = self._do("rollback", {"mark": mark})

    def save(self, path: str | os.PathLike[str]) -> None:
        """The session as a file on this machine, which `st.Session.load` reads."""
        with self._server.answer("GET", f"/sessions/{self.id}/file", None) as got, atomic_file(path) as file:
            while part := got.read(1 << 20):
                file.write(part)

    def delete(self) -> None:
        """The server forgets the session."""
        self._server.call("DELETE", f"/sessions/{self.id}")

    def _read(self, verb: str, content: bytes, kind: str, progress: Callable[[float], object] | None) -> None:
        for told in self._told(verb, content, kind):
            if progress is not None and "share" in told:
                progress(told["share"])

    def _told(self, verb: str, content: bytes, kind: str) -> Iterator[dict[str, Any]]:
        """The events of a call; the last one has the session, which is then as the server has it."""
        with self._server.answer("POST", f"/sessions/{self.id}/{verb}", content, kind) as got:
            ended = False
            for line in got:
                if not line.startswith(b"data: {"):
                    continue
                told = json.loads(line[6:])
                if "error" in told:
                    raise _refused(told.get("status", 200), line[6:])
                ended = "session" in told
                if ended:
                    self._body = told["session"]
                yield told
        if not ended:
            raise ServerError("the server ended the answer early; look at `refresh` for what it has read")

    def _do(self, verb: str, body: Any = None) -> Any:
        return self._server.call("POST", f"/sessions/{self.id}/{verb}", body)


def connect(url: str, key: str | None = None) -> Connection:
    """The sessions of a server that `siltstone serve` runs."""
    return Connection(url, key)


def _text(text: str | Sequence[int]) -> dict[str, Any]:
    return {"text": text} if isinstance(text, str) else {"ids": [int(x) for x in text]}


def _refused(status: int, content: bytes) -> ServerError:
    try:
        told = json.loads(content)["error"]
        said, param, code = str(told["message"]), told["param"], told["code"]
    except (ValueError, LookupError, TypeError):
        said, param, code = "no reason was given", None, None
    error = ServerError(f"the server refused ({status}): {said}")
    error.status, error.param, error.code = status, param, code
    return error
