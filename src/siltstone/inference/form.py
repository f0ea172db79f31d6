"""How a conversation is written: by the chat template of a tokenizer, or by the plain one; and its special tokens."""

from __future__ import annotations

import re
from typing import Any

from ..text import Tokenizer
from ..text.settings import ROLES
from .template import Template

# The model's own text follows `Assistant:` as it was written: it begins with a space if the model wrote one.
PLAIN = """{% for m in messages %}{{ {'user': 'User: ', 'assistant': 'Assistant:'}.get(m.role, '') }}{{ m.content }}
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


class Form:
    """template: Jinja; None: that of the tokenizer; "": the plain one, `PLAIN`.

    plain      whether it is the plain one
    specials   the special tokens that the template may write, with their ids
    special    matches their names, the longest first; None: there are none
    Raises TokenizerError for a template that cannot be compiled.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None = None) -> None:
        if template is None:
            template = getattr(tokenizer, "chat_template", None)
        self.tokenizer, self.plain = tokenizer, not template
        self.specials: dict[str, int] = {} if self.plain else dict(getattr(tokenizer, "specials", {}))
        names = {id_: name for name, id_ in self.specials.items()}
        ids: dict[str, Any] = {f"{role}_token": getattr(tokenizer, f"{role}_id") for role in ROLES}
        self.template = Template(template or PLAIN, {role: names.get(id_, "") for role, id_ in ids.items()})
        longest = sorted(self.specials, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, longest))) if longest else None
