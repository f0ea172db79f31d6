"""The costs of a session: counters, times, memory, and the size of a transformer's KV cache for comparison."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..bank import kinds
from ..bank.base import Bank
from ..config.layer import LayerConfig
from ..config.model import LMConfig
from ..core.words import counted
from ..layers.blocks_kept import bytes_of_block
from ..schedule.segments import Cuts, Segments

UNCUT = Cuts()


@dataclass
class Counters:
    """Tokens that a session computed for the first time, restored from a file, and recomputed in `rollback`."""

    appended: int = 0
    restored: int = 0
    recomputed: int = 0

    def add(self, tokens: int, again: bool) -> None:
        """Count a call."""
        if again:
            self.recomputed += tokens
        else:
            self.appended += tokens


class Counted(Protocol):
    """The attributes of a session that a receipt is made of."""

    @property
    def model(self) -> Any: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def position(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Timeline:
    """Seconds against tokens in bounded memory: at most `most` spans; when there are more, they are merged in pairs."""

    def __init__(self, most: int = 512) -> None:
        self.most, self.least = most, 1
        self.spans: list[list[float]] = []  # tokens, seconds

    def add(self, tokens: int, seconds: float) -> None:
        """Record that the next `tokens` tokens took `seconds`."""
        if self.spans and self.spans[-1][0] < self.least:
            self.spans[-1][0] += tokens
            self.spans[-1][1] += seconds
            return
        self.spans.append([tokens, seconds])
        if len(self.spans) > self.most:
            pairs = zip(self.spans[::2], [*self.spans[1::2], [0, 0.0]], strict=False)
            self.spans = [[a[0] + b[0], a[1] + b[1]] for a, b in pairs]
            self.least = int(max(2 * self.least, self.tokens / self.most))

    @property
    def tokens(self) -> int:
        """All tokens."""
        return int(sum(n for n, _ in self.spans))

    def ms_per_token(self, share: float = 0.1, last: bool = False) -> float | None:
        """Milliseconds a token over the first (or last) `share` of the tokens, rounded up to whole spans."""
        wanted, tokens, seconds = share * self.tokens, 0.0, 0.0
        for n, s in reversed(self.spans) if last else self.spans:
            tokens, seconds = tokens + n, seconds + s
            if tokens >= wanted:
                break
        return 1000 * seconds / tokens if tokens else None


def kv_cache_bytes(cfg: LMConfig, tokens: int, element_size: int) -> int:
    """Bytes of the keys and values of `tokens` tokens in a transformer of the same depth, heads and widths."""
    return sum(layer.key_heads * (layer.key_dim + layer.val_dim) for layer in cfg.layer_configs) * element_size * tokens


def growth(cfg: LMConfig) -> str:
    """How a session's state grows with its position t (C tokens a segment)."""
    if "attention" in cfg.kinds:
        return "O(t): the pattern has full attention layers"
    banks: dict[type[Bank], list[LayerConfig]] = {}
    for layer in cfg.memory_layers:
        if layer.members.cache.cls.keeps:
            banks.setdefault(kinds.bank(layer), []).append(layer)
    blocks = [layer for layer in cfg.memory_layers if layer.members.cache.cls.exact]
    if any(not layer.bounded for layer in blocks):
        return "O(t): blocks have the keys and values of every token (give max_checkpoints or max_bytes to bound it)"
    if not banks:
        return "O(1): a budget of blocks" if blocks else "O(1): nothing is sealed"
    most = min(banks, key=lambda bank: (not bank.grows, any(layer.bounded for layer in banks[bank]), bank.__name__))
    words = most.growth.format(segment=min(layer.segment for layer in banks[most]))
    return words + " (train with max_checkpoints or max_bytes to bound it)" * most.grows


def bytes_of_a_token(cfg: LMConfig) -> float | None:
    """Bytes that the blocks of all layers keep of a token, for a model in float32; None without cache="blocks"."""
    blocks = [layer for layer in cfg.memory_layers if layer.members.cache.cls.exact]
    return sum(sum(bytes_of_block(layer)) / layer.segment for layer in blocks) if blocks else None


def _segments(cfg: LayerConfig, phase: int, cuts: Cuts) -> Segments:
    cut, lengths = (cuts,) if cfg.content else (), kinds.kind(cfg).lengths(cfg.updates)
    return Segments(cfg.updates, np.array([phase]), cut, cfg.sinks, cfg.every, lengths)


def _tokens(cfg: LayerConfig, phase: int, cuts: Cuts, edges: list[int]) -> list[int]:
    """The token at which each of these segments begins."""
    return [cfg.sinks + int(m) * cfg.every for m in _segments(cfg, phase, cuts).opens(np.array([edges], np.int64))[0]]


def sealed(cfg: LayerConfig, position: int, phase: int = 0, cuts: Cuts = UNCUT) -> int:
    """Number of segments that a memory layer has sealed at a position."""
    if not cfg.members.cache.cls.keeps:
        return 0
    writes = max(0, position - cfg.delay - cfg.sinks) // cfg.every
    return int(_segments(cfg, phase, cuts).sealed(np.array([writes]))[0])


def spans(
    cfg: LayerConfig, position: int, phase: int = 0, cuts: Cuts = UNCUT, told: Mapping[str, Sequence[int]] | None = None
) -> list[tuple[int, int]]:
    """Tokens [first, end) that each live checkpoint of a memory layer covers, oldest first.

    told: the values of the leaves in `Bank.tells`, needed if the held segments depend on the text.
    """
    number = sealed(cfg, position, phase, cuts)
    held = (kinds.bank(cfg) if told else kinds.kind(cfg)).spans(number, told or {})
    tokens = _tokens(cfg, phase, cuts, [edge for span in held for edge in span])
    return list(zip(tokens[::2], tokens[1::2], strict=True))


def peak_rss() -> int | None:
    """Peak memory of this process in bytes; None if the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Receipt:
    """The costs of a stream. Bytes, tokens and bits per byte cover the whole stream, over all processes that read it; times and
    memory are those of this process; sizes are in bytes. All bytes but those of a session's first token are scored. Replaced
    bytes were not text. kv_cache_bytes, growth: None for a model that is not an `LM`, as they are not known then.
    block_bytes_per_token: what blocks keep of a token in all layers, routing keys included; None without cache="blocks"."""

    position: int
    bytes_read: int
    bytes_scored: int
    bytes_replaced: int
    tokens_read: int
    bits_per_byte: float | None
    appended: int
    restored: int
    recomputed: int
    ms_per_token_first: float | None
    ms_per_token_last: float | None
    peak_rss: int | None
    session_bytes: int
    kv_cache_bytes: int | None
    growth: str | None
    block_bytes_per_token: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        bpb = "-" if self.bits_per_byte is None else f"{self.bits_per_byte:.4f}"
        read = f"{counted(self.bytes_read, 'byte')}, {counted(self.tokens_read, 'token')}"
        if self.bytes_scored < self.bytes_read:
            read += f", {counted(self.bytes_scored, 'byte')} scored (the session's first token is not)"
        if self.bytes_replaced:
            read += f", {counted(self.bytes_replaced, 'byte')} replaced (not text; 8 bits more for each)"
        rows = [
            ("read", f"{read}, {bpb} bits per byte"),
            ("position", f"{self.position:,}"),
            ("tokens", f"{self.appended:,} appended, {self.restored:,} restored, {self.recomputed:,} recomputed"),
            ("ms a token", f"first 10 %: {_ms(self.ms_per_token_first)}, last 10 %: {_ms(self.ms_per_token_last)}"),
            ("peak memory", "not known here" if self.peak_rss is None else f"{human(self.peak_rss)} (whole process)"),
            ("session", human(self.session_bytes)),
        ]
        if self.kv_cache_bytes is not None and self.growth is not None:
            ratio = f"{self.kv_cache_bytes / max(1, self.session_bytes):,.1f} x the session"
            rows.append(("KV cache", f"{human(self.kv_cache_bytes)} for a transformer of the same shape ({ratio})"))
            rows.append(("state grows", self.growth))
        if self.block_bytes_per_token is not None:
            rows.append(("blocks", f"{human(self.block_bytes_per_token)} a token"))
        return rows


def receipt(
    session: Counted,
    bytes_read: int,
    bytes_scored: int,
    tokens_read: int,
    bits: float,
    timeline: Timeline,
    bytes_replaced: int = 0,
) -> Receipt:
    """The receipt of a session that read `bytes_read` bytes (`tokens_read` tokens), the scored ones at a cost of `bits`."""
    cfg, element = session.model.cfg, session.model.like.element_size()
    counters = session.counters
    return Receipt(
        position=session.position,
        bytes_read=bytes_read,
        bytes_scored=bytes_scored,
        bytes_replaced=bytes_replaced,
        tokens_read=tokens_read,
        bits_per_byte=bits / bytes_scored if bytes_scored else None,
        appended=counters.appended,
        restored=counters.restored,
        recomputed=counters.recomputed,
        ms_per_token_first=timeline.ms_per_token(),
        ms_per_token_last=timeline.ms_per_token(last=True),
        peak_rss=peak_rss(),
        session_bytes=session.nbytes,
        kv_cache_bytes=kv_cache_bytes(cfg, session.position, element) if isinstance(cfg, LMConfig) else None,
        growth=growth(cfg) if isinstance(cfg, LMConfig) else None,
        block_bytes_per_token=bytes_of_a_token(cfg) if isinstance(cfg, LMConfig) else None,
    )


def combined(receipts: Sequence[Receipt], timeline: Timeline) -> Receipt:
    """One receipt of several streams that one process read together: sums, and the times of `timeline`."""

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in receipts)

    scored, whole = total("bytes_scored"), ("position", "bytes_read", "bytes_replaced", "tokens_read", "appended", "restored")
    caches = [one.kv_cache_bytes for one in receipts if one.kv_cache_bytes is not None]
    return Receipt(
        **{name: total(name) for name in (*whole, "recomputed", "session_bytes")},
        bytes_scored=scored,
        bits_per_byte=sum((one.bits_per_byte or 0.0) * one.bytes_scored for one in receipts) / scored if scored else None,
        ms_per_token_first=timeline.ms_per_token(),
        ms_per_token_last=timeline.ms_per_token(last=True),
        peak_rss=peak_rss(),
        kv_cache_bytes=sum(caches) if caches else None,
        growth=receipts[0].growth,
        block_bytes_per_token=receipts[0].block_bytes_per_token,
    )


def human(size: float) -> str:
    """Bytes for people: 1.5 kB, 20.0 MB (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
