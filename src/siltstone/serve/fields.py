"""The fields of requests: those that are honoured have a model; the tables below name those that are ignored or refused.

`null` is the same as leaving a field out. A refused field may have the values that change nothing. Unknown fields are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .problem import Problem, bad

M = TypeVar("M", bound="Fields")

CHAT_TOKENS, COMPLETION_TOKENS = 256, 16  # written at most if the request does not say
MOST_TOKENS, MOST_CHOICES, MOST_STOPS, MOST_PROMPTS, MOST_TOP = 1 << 20, 8, 4, 64, 20
MOST_TTL = 3650 * 86400  # seconds
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**62), lt=2**62)]
Word = Annotated[str, Field(min_length=1, max_length=1000)]
Stop = Word | Annotated[list[Word], Field(max_length=MOST_STOPS)]
Id = Annotated[int, Field(ge=0)]
Bias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)
]
Top = Annotated[int, Field(ge=0, le=MOST_TOP)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)]


class Fields(BaseModel):
    """A JSON object of a request. Values of another type are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Fields):
    """Text as a part of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: Any = None
    logprobs: Any = None


class MessageFields(BaseModel):
    """A message; fields beside role and content must be empty."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None


class StreamOptions(Fields):
    """How a stream ends."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Writes(Fields):
    """What all requests that write a text have."""

    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None


class Chat(Writes):
    """`/v1/chat/completions`."""

    model: str
    messages: Annotated[list[MessageFields], Field(min_length=1)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    logit_bias: Bias | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None


class Completion(Writes):
    """`/v1/completions`."""

    model: str
    prompt: str | list[Id] | Annotated[list[str] | list[list[Id]], Field(min_length=1, max_length=MOST_PROMPTS)]
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    logit_bias: Bias | None = None
    logprobs: Top | None = None


class Response(Writes):
    """`/v1/responses`."""

    model: str | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    max_output_tokens: Tokens | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: Top | None = None


class Conversation(Fields):
    """`/v1/conversations`."""

    items: Annotated[list[dict[str, Any]], Field(max_length=1000)] | None = None
    metadata: Metadata | None = None


class Metadatas(Fields):
    """`/v1/conversations/{id}`."""

    metadata: Metadata


class Items(Fields):
    """`/v1/conversations/{id}/items`."""

    items: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]


class NewSession(Fields):
    """`/sessions`."""

    tags: Metadata | None = None
    ttl: Annotated[float, Field(gt=0, le=MOST_TTL)] | None = None


class SessionUpdate(NewSession):
    """`/sessions/{id}`."""


class Append(Fields):
    """`/sessions/{id}/append`."""

    text: str | None = None
    ids: list[Id] | None = None
    stream: bool | None = None
    asking: bool | None = None


class Score(Fields):
    """`/sessions/{id}/score`."""

    text: str | None = None
    ids: list[Id] | None = None


class Find(Fields):
    """`/sessions/{id}/find`."""

    text: Word | None = None
    question: Word | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] | None = None


class Continue(Writes):
    """`/sessions/{id}/generate`."""

    max_tokens: Tokens | None = None
    stop: Stop | None = None
    seed: Seed | None = None


class Rollback(Fields):
    """`/sessions/{id}/rollback`."""

    mark: str


IGNORED: dict[type[Fields], frozenset[str]] = {
    Chat: frozenset(
        "user service_tier parallel_tool_calls safety_identifier prompt_cache_key prompt_cache_retention reasoning_effort "
        "verbosity".split()
    ),
    Completion: frozenset({"user"}),
    Response: frozenset(
        "user service_tier parallel_tool_calls safety_identifier prompt_cache_key prompt_cache_retention reasoning "
        "max_tool_calls".split()
    ),
}
# Refused fields, and the values that are allowed because they change nothing.
REFUSED: dict[type[Fields], Mapping[str, tuple[Any, ...]]] = {
    Chat: {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
    },
    Completion: {
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "best_of": (1,),
        "suffix": ("",),
    },
    Response: {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "text": ({}, {"format": {"type": "text"}}),
        "truncation": ("disabled",),
        "prompt": (),
        "context_management": ([],),
    },
}


def parsed(kind: type[M], body: Any) -> M:
    """The request's fields. Raises Problem 400 with the field at fault."""
    if not isinstance(body, dict):
        raise bad(None, "The body must be a JSON object.")
    left: dict[str, Any] = {}
    ignored, refused = IGNORED.get(kind, frozenset()), REFUSED.get(kind, {})
    for name, value in body.items():
        if value is None or name in ignored:
            continue
        if name in refused:
            if not any(type(value) is type(allowed) and value == allowed for allowed in refused[name]):
                raise Problem(400, f"This server does not support {name!r} with this value.", name, "unsupported_parameter")
        elif name not in kind.model_fields:
            raise Problem(400, f"Unrecognized request argument supplied: {ascii(name)[:80]}.", name[:80], "unknown_parameter")
        else:
            left[name] = value
    return checked(kind, left)


def checked(kind: type[Any], value: Any, under: str = "") -> Any:
    """A value as a model. Raises Problem 400. under: the field that has the value."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        names = [x for x in first["loc"] if isinstance(x, int) or str(x).isidentifier()]
        where = under + "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in names)
        where = where.removeprefix(".")
        kind_of = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        said = "is required" if first["type"] == "missing" else f"is invalid: {first['msg'][:200]}"
        raise Problem(400, f"{where or 'The body'} {said}.", where or None, kind_of) from None
