"""The settings of a tokenizer that `tokenizer.json` does not have: special tokens by their roles, and the chat template.

They are the content of a `tokenizer_config.json` of transformers. One key is ours: `end_token_ids`, further ids that end a text.
"""

from __future__ import annotations

from typing import Any

from ..errors import TokenizerError
from .library import quoted, read_json

ROLES = ("bos", "eos", "pad")
END = "end_token_ids"


class Settings:
    """text       the JSON, "" for none
    specials      role -> text of the special token
    end_ids       further ids that end a text
    Raises TokenizerError.
    """

    def __init__(self, text: str = "") -> None:
        given = read_json(text) if text else {}
        self.text = text
        self.specials = {role: token for role in ROLES if (token := _token(given.get(f"{role}_token"), role)) is not None}
        ends = given.get(END) or []
        if not isinstance(ends, list) or not all(type(i) is int and i >= 0 for i in ends):
            raise TokenizerError(f"{END}={quoted(ends, 40)} in tokenizer_config.json must be a list of ids")
        self.end_ids: tuple[int, ...] = tuple(ends)
        self.chat_template = _template(given.get("chat_template"))


def _token(given: Any, role: str) -> str | None:
    """The text of a special token, which may be given as an object with `content`."""
    token = given.get("content") if isinstance(given, dict) else given
    if token is not None and not (isinstance(token, str) and token):
        raise TokenizerError(f"{role}_token={quoted(given, 40)} in tokenizer_config.json must be the text of a token")
    return token


def _template(given: Any) -> str | None:
    """The template of conversations; of several named ones that named `default`."""
    if isinstance(given, list):
        named = [one for one in given if isinstance(one, dict) and isinstance(one.get("name"), str)]
        given = {one["name"]: one.get("template") for one in named}
    if isinstance(given, dict):
        given = given.get("default")
    if given is not None and not isinstance(given, str):
        raise TokenizerError(f"chat_template={quoted(given, 40)} in tokenizer_config.json must be a text")
    return given
