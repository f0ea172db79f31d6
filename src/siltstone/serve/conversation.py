"""Messages and items of requests, as messages of a conversation."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..text.tokenizer import utf8
from .answer import Prompt
from .fields import MessageFields, TextPart, checked
from .marks import Marks, chain
from .problem import bad
from .template import Message, Template


def messages(given: Sequence[MessageFields], field: str) -> list[Message]:
    """The messages of a request. Raises Problem for parts that are no text."""
    return [_message(one, f"{field}[{i}]") for i, one in enumerate(given)]


def from_items(given: str | list[dict[str, Any]] | None, field: str) -> list[Message]:
    """The messages of a list of input items, or of a text, which is a message of the user."""
    if isinstance(given, str):
        return [Message("user", sound(given, field))]
    found = []
    for i, item in enumerate(given or ()):
        where = f"{field}[{i}]"
        if item.get("type", "message") != "message":
            raise bad(f"{where}.type", f"{where}.type must be 'message'; this server has no other items.")
        plain = {key: value for key, value in item.items() if key not in ("type", "id", "status", "phase")}
        found.append(_message(checked(MessageFields, plain, where), where))
    return found


def sound(text: str, field: str) -> str:
    """The text. Raises Problem if UTF-8 cannot encode it."""
    try:
        utf8(text)
    except InputError as error:
        raise bad(field, f"{field}: {error}") from None
    return text


def prompt(marks: Marks, template: Template, given: Sequence[Message]) -> Prompt:
    """What is read for a conversation."""
    body, header = template.render(given)
    return Prompt(links(marks, given), body, header)


def links(marks: Marks, given: Sequence[Message]) -> list[str]:
    """What kept sessions are found by, for each beginning of a conversation."""
    return chain(marks.seed, [[m.role, m.content] for m in given])


def as_item(message: Message) -> dict[str, Any]:
    """A message as an item of a conversation."""
    kind = "output_text" if message.role == "assistant" else "input_text"
    part = {"type": kind, "text": message.content} | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})
    return {
        "type": "message",
        "id": f"msg_{secrets.token_hex(16)}",
        "status": "completed",
        "role": message.role,
        "content": [part],
    }


def _message(one: MessageFields, where: str) -> Message:
    for name, value in (one.model_extra or {}).items():
        if value not in (None, [], {}, "") and name != "name":
            raise bad(f"{where}.{name[:60]}", f"This server reads text alone, and {where} has {ascii(name)[:60]}.")
    content = one.content
    parts: list[str | TextPart] = [content or ""] if content is None or isinstance(content, str) else list(content)
    return Message(one.role, sound("".join(x if isinstance(x, str) else x.text for x in parts), f"{where}.content"))
