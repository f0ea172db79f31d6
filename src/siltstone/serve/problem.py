"""Errors as the body of a response, in OpenAI's form."""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """An answer that is an error.

    status    the status code
    param     the field of the request that is at fault
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry is None else {"Retry-After": str(retry)}
        if status == 401:
            self.headers["WWW-Authenticate"] = 'Basic realm="siltstone", charset="UTF-8"'  # a browser asks for a key

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that the client receives."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad(param: str | None, message: str) -> Problem:
    """400: a field is at fault."""
    return Problem(400, message, param, "invalid_value")


def missing(what: str, name: str) -> Problem:
    """404: there is no such thing, or it belongs to another key."""
    return Problem(404, f"No {what} with id {name[:80]!r} found.", "id", "not_found")


def busy(message: str) -> Problem:
    """429: try again after a second."""
    return Problem(429, message, code="queue_full", retry=1)


def left_early() -> Problem:
    """499: nobody reads the answer."""
    return Problem(499, "The client has left.", code="client_closed_request")
