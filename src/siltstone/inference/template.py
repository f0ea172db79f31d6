"""Chat templates: Jinja, in the sandbox with data that cannot be changed, as transformers renders them, and with limits.

A template comes with a model that a stranger made. It sees `messages`, `add_generation_prompt` and the special tokens, and
nothing else: no files, no private attributes, no other templates. Its loops have at most `STEPS` rounds together, and no text or
list that it makes exceeds the conversation by more than `LONGEST` characters.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ..errors import TokenizerError

MEND = "use another chat template, or the plain one (--plain, in Python template='')"
SOURCE, LONGEST, STEPS = 1 << 18, 1 << 20, 20_000
Message = dict[str, str]
_FILTERS = """abs capitalize count d default dictsort e escape first float int items join last length list lower map max min
reject rejectattr replace reverse round safe select selectattr sort string title tojson trim unique upper""".split()
_GROWING = frozenset("center expandtabs format format_map ljust rjust translate zfill".split())
_WIDE = re.compile(r"%[^%a-zA-Z]*(\d{4}|\*)")


class _Refused(Exception):
    """`raise_exception` of a template, or a limit that it exceeds."""


class _Generation(Extension):
    """The block `{% generation %}`, which marks replies for training: its content is rendered."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Counting(NodeTransformer):
    """Counts the rounds of loops and the calls of macros, and the characters that `~` joins."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._counted(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        whole = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Call(nodes.EnvironmentAttribute("concat"), [whole], [], None, None, lineno=node.lineno)

    def _counted(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
        return node


class _Environment(ImmutableSandboxedEnvironment):
    """steps, most: rounds and characters that are left, and the longest text."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        self.steps, self.most = STEPS, LONGEST
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=self._shown,
        )
        own = {"tojson": self._json, "join": self._join, "replace": self._replace, "string": self._string}
        self.filters = {name: self.filters[name] for name in _FILTERS} | own
        self.globals = {name: self.globals[name] for name in ("dict", "namespace", "range")}
        self.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}

    def _parse(self, source: str, name: Any, filename: Any) -> nodes.Template:
        tree = _Counting().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def step(self) -> str:
        """Counts one round."""
        self.steps -= 1
        if self.steps < 0:
            raise _Refused(f"its loops have more than {STEPS:,} rounds")
        return ""

    def room(self, size: int) -> None:
        """Raises _Refused for a text or list that is too long."""
        if size > self.most:
            raise _Refused(f"it makes a text of more than {self.most:,} characters")

    def concat(self, parts: Iterable[Any]) -> str:  # type: ignore[override]
        """All parts as one text."""
        found, size = [], 0
        for part in parts:
            found.append(str(self._shown(part)))
            size += len(found[-1])
            self.room(size)
        return "".join(found)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic whose result is not too large."""
        sizes = [len(x) for x in (left, right) if hasattr(x, "__len__")]
        numbers = [abs(x) for x in (left, right) if isinstance(x, int | float)]
        if operator == "+" and sizes:
            self.room(sum(sizes))
        elif operator == "*" and sizes:
            self.room(max(sizes) * int(max(numbers, default=0)))
        elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise _Refused("it formats a number with more than 999 places")
        elif operator == "**" and max(numbers, default=0) > 1000 or operator == "*" and sum(numbers) > 1 << 64:
            raise _Refused("it computes with numbers that are too large")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Without methods that make long texts of short ones."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str | bytes) and attr in _GROWING)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """An attribute that is not safe is an error, also if it is only printed."""
        raise SecurityError(f"the attribute {attribute!r} of {type(obj).__name__} is not safe")

    def wrap_str_format(self, value: Any) -> None:
        """`format` can make a text of any length, and is refused like other methods that do."""

    def call(self, context: Any, obj: Any, *given: Any, **named: Any) -> Any:  # type: ignore[override]
        """A call whose result is not too long."""
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name in ("join", "replace"):
            return self._join(*given, d=owner) if name == "join" else self._replace(owner, *given)
        return super().call(context, obj, *given, **named)

    def _join(self, parts: Iterable[Any], d: str = "", attribute: Any = None) -> str:
        found = [part if attribute is None else self.getitem(part, attribute) for part in parts]
        self.room(len(d) * len(found))
        return self.concat(x for i, part in enumerate(found) for x in ((d, part) if i else (part,)))

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        text = str(self._shown(text))
        self.room(len(text) + (text.count(old) if count is None or count < 0 else min(count, text.count(old))) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def _string(self, value: Any) -> str:
        return str(self._shown(value))

    def _json(self, value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
        indent = None if indent is None else min(indent, 8)
        return json.dumps(self._shown(value), ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)

    def _shown(self, value: Any) -> Any:
        """A value that is going to be printed. Raises _Refused for a list of lists that is too long."""
        inside, size = [value], 0
        while inside:
            one = inside.pop()
            if isinstance(one, dict | list | tuple):
                inside += [*one, *one.values()] if isinstance(one, dict) else one
            size += 1 + (len(one) if isinstance(one, str) else 0)
            self.room(size - 1 if one is value else size)
        return value


class Template:
    """A compiled template. names: the special tokens that it may use, such as bos_token.

    Raises TokenizerError for a template that cannot be compiled.
    """

    def __init__(self, source: str, names: Mapping[str, str] | None = None) -> None:
        self.source, self.names = source, dict(names or {})
        self._lock, self._environment = threading.Lock(), _Environment()
        if len(source) > SOURCE:
            raise TokenizerError(f"the chat template has {len(source):,} characters; at most {SOURCE:,} are read; {MEND}")
        try:
            self._compiled = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, TypeError, OverflowError) as error:
            raise _failure("the chat template cannot be read", error) from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool, names: Mapping[str, str] | None = None) -> str:
        """The text of a conversation. names: other special tokens. Raises TokenizerError if the template fails, or refuses the
        conversation."""
        with self._lock:
            self._environment.steps = STEPS
            self._environment.most = LONGEST + sum(len(message["content"]) for message in messages)
            data = {"messages": [dict(x) for x in messages], "add_generation_prompt": add_generation_prompt, **(names or {})}
            data |= {"tools": None, "documents": None}  # templates ask `tools is not none`
            try:
                return self._environment.concat(self._compiled.root_render_func(self._compiled.new_context(self.names | data)))
            except _Refused as error:
                raise TokenizerError(f"the chat template ends with an error: {_words(error)}; {MEND}") from None
            except MemoryError:
                raise
            except Exception as error:  # a template can cause any error
                raise _failure("the chat template fails", error) from None


def _failure(what: str, error: BaseException) -> TokenizerError:
    line = getattr(error, "lineno", None)
    where = f" (line {line})" if line is not None else ""
    return TokenizerError(f"{what}{where}: {type(error).__name__}: {_words(error)}; {MEND}")


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _raise(message: Any) -> None:
    raise _Refused(str(message))
