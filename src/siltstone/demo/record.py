"""The measurements of a demonstration as plain values, for the panel and the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Trace:
    """The measurements of one reader, one value a chunk.

    position  tokens read so far
    ms        wall milliseconds a token of this chunk
    bytes     bytes of the reader's state: a session's state, or a transformer's keys and values
    bits      bits per byte of the chunk's text (empty if the weights are random)
    """

    position: list[int] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)

    def add(self, position: int, ms: float, size: int, bits: float | None = None) -> None:
        """Adds the measurements of one chunk."""
        self.position.append(position)
        self.ms.append(ms)
        self.bytes.append(size)
        if bits is not None:
            self.bits.append(bits)

    def tenth(self, last: bool) -> float:
        """Mean ms a token over the first or the last 10 % of what was read."""
        n = max(1, len(self.ms) // 10)
        part = self.ms[-n:] if last else self.ms[:n]
        return sum(part) / len(part) if part else 0.0


@dataclass
class Record:
    """The contents of the report; `to_dict` is ready for JSON.

    facts        model, text and machine: name -> value, shown unchanged
    bits         bits per byte over all tokens that were read
    samples      bits per byte of short samples: key "session" with the whole session, keys "32", "128", ... with only so many
                 tokens of context
    sampled      position of each sample, in tokens
    recall       facts told in the text and asked at its end (`siltstone.demo.recall`)
    forks        prompt, text and ms a token of each fork
    resume       the comparison with the restored session
    evidence     the training evidence in the folder of the model, if there is any
    """

    facts: dict[str, Any] = field(default_factory=dict)
    reader: Trace = field(default_factory=Trace)
    transformer: Trace = field(default_factory=Trace)
    bits: float = 0.0
    samples: list[dict[str, float]] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    recall: dict[str, Any] = field(default_factory=dict)
    forks: list[dict[str, Any]] = field(default_factory=list)
    resume: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The whole record as plain values."""
        return asdict(self)
