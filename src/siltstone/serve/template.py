"""A conversation as one text, which requests with the same beginning have in common.

In this text, the names of special tokens stand between two lone surrogates, which no text of a user can contain: so the content
of a message never becomes a special token, whatever it says.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import TokenizerError
from ..inference import template as jinja
from ..inference.form import Form
from ..text import Tokenizer
from .problem import bad

OPEN, SHUT = "\ud800", "\ud801"
_SPECIAL = re.compile(f"{OPEN}(.*?){SHUT}", re.S)
ROLES = {"developer": "system"}


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


class Template(Form):
    """`body, header = template.render(messages)`: the text of the messages, and what the model continues after.

    name    a text that differs between templates
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.name = self.template.source

    def render(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Raises Problem if the template refuses these messages."""
        nonce = secrets.token_hex(8)
        held = [{"role": ROLES.get(m.role, m.role), "content": f"{nonce}-{i}-"} for i, m in enumerate(messages)]
        whole, body = self._rendered(held, True), self._rendered(held, False)
        header = whole[len(body) :] if whole.startswith(body) else ""
        contents = re.compile(f"{nonce}-(\\d+)-")
        return (
            "".join(
                messages[int(part)].content if i % 2 else self._control(part)
                for i, part in enumerate(contents.split(body if header else whole))
            ),
            self._control(header),
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a part of a rendered text."""
        ids: list[int] = []
        for i, part in enumerate(_SPECIAL.split(text)):
            if i % 2:
                ids.append(self.specials[part])
            elif part:
                ids += self.tokenizer.encode(part)
        return ids

    def _control(self, text: str) -> str:
        return self.special.sub(lambda met: f"{OPEN}{met[0]}{SHUT}", text) if self.special and text else text

    def _rendered(self, messages: list[jinja.Message], header: bool) -> str:
        try:
            return self.template.render(messages, header)
        except TokenizerError as error:
            raise bad("messages", f"The model's chat template refuses these messages: {str(error)[:200]}") from None
