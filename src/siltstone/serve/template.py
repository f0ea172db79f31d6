"""A conversation as one text: by the chat template of the model's tokenizer, or by a plain one.

The plain template is one block a message: a line `Role:`, the content, and an empty line. The model continues after the line
`Assistant:`.

In the text of a template, the names of special tokens stand between two lone surrogates, which no text of a user can contain:
so the content of a message never becomes a special token, whatever it says.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import TokenizerError
from ..inference import template as jinja
from ..text import Tokenizer
from .problem import bad

OPEN, SHUT = "\ud800", "\ud801"
_SPECIAL = re.compile(f"{OPEN}(.*?){SHUT}", re.S)
PLAIN = (
    "{% for message in messages %}{{ message.role | capitalize }}:\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
ROLES = {"developer": "system"}


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


class Template:
    """`body, header = template.render(messages)`: the text of the messages, and what the model continues after.

    name    a text that differs between templates
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        given = getattr(tokenizer, "chat_template", None)
        self.tokenizer, self.name = tokenizer, given or PLAIN
        self._specials: dict[str, int] = dict(getattr(tokenizer, "specials", {}))
        names = sorted(self._specials, key=len, reverse=True)
        self._named = re.compile("|".join(map(re.escape, names))) if names else None
        ids = {id_: name for name, id_ in self._specials.items()}
        tokens = {f"{role}_token": ids.get(getattr(tokenizer, f"{role}_id"), "") for role in ("bos", "eos")}
        self._template = jinja.Template(self.name, tokens)

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
                ids.append(self._specials[part])
            elif part:
                ids += self.tokenizer.encode(part)
        return ids

    def _control(self, text: str) -> str:
        return self._named.sub(lambda met: f"{OPEN}{met[0]}{SHUT}", text) if self._named and text else text

    def _rendered(self, messages: list[jinja.Message], header: bool) -> str:
        try:
            return self._template.render(messages, header)
        except TokenizerError as error:
            raise bad("messages", f"The model's chat template refuses these messages: {str(error)[:200]}") from None
