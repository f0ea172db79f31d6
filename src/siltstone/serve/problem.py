"""Errors as the body of a response, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from starlette.requests import ClientDisconnect

from ..errors import CheckpointError, InputError, OutOfMemory, SiltstoneError, StorageError

LEFT = "client_closed_request"
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Problem(Exception):
    """An answer that is an error.

    status    the status code
    param     the field of the request that is at fault
    retry     seconds after which the same request may succeed; None: unknown. again: whether a client should try again at all
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
        *,
        again: bool = True,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry is None else {"Retry-After": str(retry)}
        if not again:
            self.headers["x-should-retry"] = "false"  # OpenAI's clients repeat errors of some status codes otherwise
        if status == 401:
            self.headers["WWW-Authenticate"] = 'Basic realm="siltstone", charset="UTF-8"'  # a browser asks for a key

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that the client receives."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad(param: str | None, message: str) -> Problem:
    """400: a field is at fault."""
    return Problem(400, message, param, "invalid_value")


def missing(what: str, name: str) -> Problem:
    """404: there is no such thing, or it belongs to another key."""
    return Problem(404, f"No {what} with id {name[:80]!r} found.", "id", "not_found")


def expired(what: str, name: str) -> Problem:
    """410: its time to live has passed."""
    return Problem(410, f"The {what} {name[:80]!r} has expired: it was not used for its time to live.", "id", "expired")


def busy(message: str) -> Problem:
    """429: try again after a second."""
    return Problem(429, message, code="queue_full", retry=1)


def over_quota(message: str) -> Problem:
    """403: the key has used what it may use."""
    return Problem(403, message, code="quota_exceeded", again=False)


def left_early() -> Problem:
    """499: nobody reads the answer."""
    return Problem(499, "The client has left.", code=LEFT)


def late() -> Problem:
    """504: the request took longer than any may take."""
    return Problem(
        504, "The request took longer than this server's deadline; nothing was appended.", code="deadline", again=False
    )


def problem(error: BaseException) -> Problem:
    """Any error as a Problem; those of the program itself tell nothing."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ClientDisconnect):
        return left_early()
    if isinstance(error, OutOfMemory | MemoryError):
        return Problem(503, "The server has no memory for this request.", code="out_of_memory", retry=5)
    if isinstance(error, StorageError):
        return Problem(503, "The server's store failed; nothing was appended.", code="storage_failed", retry=5)
    if isinstance(error, CheckpointError):
        return Problem(500, "The model's weights are damaged.", code="model_damaged")
    if isinstance(error, InputError):
        return bad(None, str(error)[:300])
    if isinstance(error, SiltstoneError):
        return Problem(503, "The model cannot be used now.", code="model_unavailable", retry=5)
    return Problem(500, "The server had an error; nothing was appended.", code="internal_error")
