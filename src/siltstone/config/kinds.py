"""Kinds of keys: the allowed values, their check, and the words for the documentation. A field's metadata has its `Key`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from . import registry
from .checks import number_between, one_of, require, whole


class Kind(Protocol):
    """type: the JSON type of a value; values: those that are allowed, in words for the documentation."""

    @property
    def type(self) -> str: ...

    @property
    def values(self) -> str: ...

    def check(self, key: str, value: Any) -> None:
        """ConfigError for a value that is not allowed."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`; optional: or None, which means unset."""

    least: int
    most: int | None = None
    optional: bool = False

    @property
    def type(self) -> str:
        return "integer or null" if self.optional else "integer"

    @property
    def values(self) -> str:
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most:,}"

    def check(self, key: str, value: Any) -> None:
        """See Kind."""
        if value is not None or not self.optional:
            whole(key, value, self.least, self.most)


class Choice:
    """One of a list of strings."""

    type = "string"

    def __init__(self, *allowed: str) -> None:
        self.allowed = list(allowed)

    @property
    def values(self) -> str:
        return ", ".join(f"`{x}`" for x in self.allowed)

    def check(self, key: str, value: Any) -> None:
        """See Kind."""
        one_of(key, value, self.allowed)


@dataclass(frozen=True)
class Member:
    """The name of a member of a family."""

    family: str
    type = "string"

    @property
    def values(self) -> str:
        return ", ".join(f"`{x}`" for x in registry.members(self.family))

    def check(self, key: str, value: Any) -> None:
        """See Kind."""
        registry.member(self.family, value)


class Options:
    """The options of the chosen member; the member's dataclass checks them (`members.parse`)."""

    type = "object"

    def __init__(self, family: str) -> None:
        self.values = f"the options of the chosen `{family}`"

    def check(self, key: str, value: Any) -> None:
        """See Kind. Does nothing: options are checked when they are parsed."""


class Flag:
    """True or false."""

    type, values = "boolean", "`true`, `false`"

    def check(self, key: str, value: Any) -> None:
        """See Kind."""
        require(isinstance(value, bool), f"{key}={value!r} must be true or false")


@dataclass(frozen=True)
class Custom:
    """Any value for which `allowed` is true; the error message has key, value and `expected`."""

    type: str
    values: str
    allowed: Callable[[Any], bool]
    expected: str

    def check(self, key: str, value: Any) -> None:
        """See Kind."""
        require(self.allowed(value), f"{key}={value!r} {self.expected}")


EPSILON = Custom("number", "0 to 1", lambda x: number_between(x, 0, 1), "must be a number between 0 and 1, for example 1e-6")


@dataclass(frozen=True)
class Key:
    """A key of a configuration: the kind of its values, its meaning, and its default if that is computed."""

    kind: Kind
    meaning: str
    default: str = ""


def about(kind: Kind, meaning: str, default: str = "") -> dict[str, Any]:
    """The metadata of a field. default: the default in words."""
    return {"key": Key(kind, meaning, default)}


def option(default: Any, kind: Kind, meaning: str, shown: str = "") -> Any:
    """A field with a default: `window: int = option(128, Whole(0), "tokens seen exactly")`. shown: the default in words."""
    return field(default=default, metadata=about(kind, meaning, shown))


def keys(cls: Any) -> dict[str, Key]:
    """The keys of a configuration's class, in order."""
    return {f.name: f.metadata["key"] for f in fields(cls) if "key" in f.metadata}


def check_values(cfg: Any) -> None:
    """Raise ConfigError for the first value that is not allowed."""
    for name, key in keys(type(cfg)).items():
        key.kind.check(name, getattr(cfg, name))


def documented(cls: Any) -> Any:
    """A decorator: adds the meaning of every key to the docstring, for `help`."""
    width = max(map(len, keys(cls))) + 2
    cls.__doc__ = f"{cls.__doc__}\n\n" + "\n".join(f"    {name:<{width}}{key.meaning}" for name, key in keys(cls).items()) + "\n"
    return cls
