"""Which keys require or exclude each other: one row a constraint. Messages and docs/configuration.md are made from the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .checks import divisors, nearest

Words = str | Callable[[Any], str]


@dataclass(frozen=True)
class Constraint:
    """A rule that every configuration must satisfy.

    keys    the keys that it concerns
    rule    what must hold, as a sentence of the documentation
    holds   configuration -> whether the rule holds
    said    the first part of the error message: a text with `{key}` for values (`{key!r}` quotes them), or a function
    mend    the second part, what to change: likewise a text or a function
    """

    keys: tuple[str, ...]
    rule: str
    holds: Callable[[Any], bool]
    said: Words
    mend: Words

    def message(self, cfg: Any) -> str:
        """The error message for a configuration that violates the rule."""
        return "; ".join(
            words.format_map(_Values(cfg)) if isinstance(words, str) else words(cfg) for words in (self.said, self.mend)
        )


class _Values(dict[str, Any]):
    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    def __missing__(self, key: str) -> Any:
        return getattr(self.cfg, key)


def check(cfg: Any, table: Sequence[Constraint]) -> None:
    """Raise ConfigError with the message of the first row that does not hold."""
    for row in table:
        if not row.holds(cfg):
            raise ConfigError(row.message(cfg))


def _unit(c: Any) -> str:
    return "rate" if c.compress_every is None else "compress_every"


def _heads(c: Any) -> str:
    fitting = [n for n in divisors(c.d_model) if c.d_model // n % (2 if c.position == "rope" and c.window else 1) == 0]
    other = f", or heads={nearest(c.heads, fitting)}" if fitting else ""
    return f"set head_dim, for example head_dim={max(2, c.d_model // c.heads // 2 * 2)}{other}"


def _segment(c: Any) -> str:
    fitting = [n for n in divisors(c.segment) if n % (1 if c.compress_every is None else c.rate) == 0]
    other = f", or {_unit(c)}={nearest(c.every, fitting)}" if fitting else ""
    return f"choose segment={max(1, c.segment // c.every) * c.every}{other}"


def _subblock(c: Any) -> str:
    fitting = [n * c.every for n in divisors(c.updates)]
    better = nearest(c.subblock, fitting[:-1] or fitting)  # the last one is the whole segment, the same as "mean"
    return "choose another, for example " + (f"router='subblock:{better}'" if 1 < better < c.segment else "router='mean'")


BUDGETS = ("max_checkpoints", "max_bytes")
LAYER: tuple[Constraint, ...] = (
    Constraint(
        ("d_model", "heads", "head_dim"),
        "`heads` must divide `d_model`, unless `head_dim` is set",
        lambda c: c.head_dim is not None or c.d_model % c.heads == 0,
        "d_model={d_model} does not divide into heads={heads}",
        _heads,
    ),
    Constraint(
        ("kv_heads", "heads"),
        "`kv_heads` must divide `heads`",
        lambda c: c.heads % c.key_heads == 0,
        "kv_heads={kv_heads} does not divide heads={heads}",
        lambda c: f"choose one of its divisors {divisors(c.heads)}",
    ),
    Constraint(
        ("head_dim", "position", "window"),
        "`position='rope'` requires an even `head_dim` (it is ignored when `window=0`)",
        lambda c: c.position != "rope" or c.window == 0 or c.key_dim % 2 == 0,
        "head_dim={key_dim} is odd, and position='rope' rotates pairs of channels",
        "choose an even head_dim, or position='alibi' or 'none'",
    ),
    Constraint(
        ("write_delay", "window"),
        "`write_delay='window'` requires `window >= 1`",
        lambda c: c.window > 0 or c.write_delay == 0,
        "write_delay='window' requires window >= 1, and window={window} was given",
        "set write_delay=0, or a window of at least 1",
    ),
    Constraint(
        ("sinks", "window"),
        "`sinks` requires `window >= 1`",
        lambda c: c.window > 0 or c.sinks == 0,
        "sinks={sinks} requires window attention",
        "set a window of at least 1, or sinks=0",
    ),
    Constraint(
        ("compress_every", "rate"),
        "`compress_every` must be a multiple of `rate`",
        lambda c: c.every % c.rate == 0,
        "compress_every={compress_every} is not a multiple of rate={rate}",
        lambda c: f"choose compress_every={-(-c.every // c.rate) * c.rate}",
    ),
    Constraint(
        ("write_delay", "rate", "compress_every", "window"),
        "`write_delay=0` requires `window >= compress_every - 1` (`rate - 1` where `compress_every` is unset)",
        lambda c: c.write_delay == "window" or c.window >= c.every - 1,
        lambda c: (
            f"write_delay=0 with {_unit(c)}={c.every} requires window >= {c.every - 1}, or tokens of an incomplete "
            f"update would be invisible; window={c.window} was given"
        ),
        lambda c: f"set window={c.every - 1}, or write_delay='window'",
    ),
    Constraint(
        ("segment", "rate", "compress_every"),
        "`segment` must be a multiple of `compress_every` (of `rate` where `compress_every` is unset)",
        lambda c: c.segment % c.every == 0,
        lambda c: f"segment={c.segment} is not a multiple of {_unit(c)}={c.every}",
        _segment,
    ),
    Constraint(
        ("router", "segment", "rate", "compress_every"),
        "`router='subblock:m'`: `m` must divide `segment` and be a multiple of `compress_every` (of `rate` where it is unset)",
        lambda c: c.segment % c.subblock == 0 and c.subblock % c.every == 0,
        lambda c: (
            f"router={c.router!r}: sub-blocks of {c.subblock} tokens must be whole updates of the memory (every "
            f"{c.every} token{'s' * (c.every > 1)}) and divide a segment (segment={c.segment})"
        ),
        _subblock,
    ),
    Constraint(
        ("router", "segments", "evict"),
        "`router='anchor:m'` excludes `segments='logarithmic'` and `evict='merge'`",
        lambda c: not c.anchors or c.segments != "logarithmic" and (not c.bounded or c.evict != "merge"),
        "router={router!r} reads the routing keys of a checkpoint from the state of one segment, and segments={segments!r} with "
        "evict={evict!r} merges checkpoints",
        "set segments='constant' or 'content', and evict='age' or 'use', or choose router='mean'",
    ),
    Constraint(
        ("router", "cache"),
        "`router='anchor:m'` excludes `cache='blocks'`",
        lambda c: not c.anchors or not c.members.cache.cls.exact,
        "router={router!r} reads routing keys from states, and cache={cache!r} keeps none",
        "choose router='subblock:2', or cache='sparse'",
    ),
    Constraint(
        (*BUDGETS, "cache"),
        "`max_checkpoints` and `max_bytes` require a cache that keeps checkpoints or blocks",
        lambda c: not c.bounded or c.members.cache.cls.keeps or c.members.cache.cls.exact,
        "max_checkpoints and max_bytes limit checkpoints, and cache={cache!r} keeps none",
        "leave them out, or set another cache",
    ),
    Constraint(
        BUDGETS,
        "`max_checkpoints` and `max_bytes` exclude each other",
        lambda c: c.max_checkpoints is None or c.max_bytes is None,
        "max_checkpoints and max_bytes are both given",
        "keep one of them",
    ),
    Constraint(
        (*BUDGETS, "segments"),
        "`max_checkpoints` and `max_bytes` exclude `segments='logarithmic'`",
        lambda c: not c.bounded or c.segments != "logarithmic",
        "max_checkpoints and max_bytes limit a bank that grows, and a bank of logarithmic segments does not",
        "set segments='constant' or 'content', or give no budget",
    ),
    Constraint(
        ("evict", "cache"),
        "`evict='use'` requires a cache with gates, or `cache='blocks'`",
        lambda c: not c.bounded or c.evict != "use" or c.members.cache.cls.routed or c.members.cache.cls.exact,
        "evict='use' adds up the gate weights of each checkpoint, and cache={cache!r} has no gates",
        "choose evict='age' or 'merge', or cache='gated'",
    ),
    Constraint(
        ("evict", "routing"),
        "`evict='use'` excludes `routing='shared'`",
        lambda c: not c.bounded or c.evict != "use" or c.routing == "own",
        "evict='use' keeps different checkpoints in each layer, and routing='shared' requires the same ones",
        "set routing='own', or evict='age' or 'merge'",
    ),
    Constraint(
        ("cache", "evict"),
        "`evict='merge'` excludes `cache='blocks'`",
        lambda c: not c.bounded or c.evict != "merge" or not c.members.cache.cls.exact,
        "evict='merge' adds states, and the keys and values of cache={cache!r} cannot be added",
        "choose evict='age' or 'use'",
    ),
    Constraint(
        ("evict", "start", "memory"),
        "`evict='merge'` with `start='restart'` requires a memory whose states can be added",
        lambda c: not c.bounded or c.evict != "merge" or c.start != "restart" or c.members.memory.cls.adds_up,
        "evict='merge' with start='restart' adds the states of two segments, and states of memory={memory!r} cannot be added",
        "set evict='age' or 'use', or start='carry'",
    ),
)
