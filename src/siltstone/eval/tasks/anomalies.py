"""Stream surprise on logs: do injected anomalies cost more than ordinary lines? Beside `xz` and an n-gram model."""

from __future__ import annotations

import lzma
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from .base import Observation, TextTask
from .reader import Reader
from .templates import STRANGE, USUAL

BACK = 2048  # bytes of earlier text that xz sees


@dataclass(frozen=True)
class AnomalyOptions:
    """share: of anomalous lines; warm: share of the stream that is read before lines are judged; order: of the n-gram model."""

    share: float = 0.05
    warm: float = 0.3
    order: int = 4


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive has a larger value than a negative; equal values count one half. NaN without both."""
    yes, no = values[positive], values[~positive]
    if not len(yes) or not len(no):
        return math.nan
    return float(((yes[:, None] > no).mean() + (yes[:, None] >= no).mean()) / 2)


def log_lines(count: int, share: float, clean: int, by: np.random.Generator, split: str = "test") -> tuple[list[str], np.ndarray]:
    """`count` lines, and which are anomalous: none of the first `clean`, at least one after, each of the others by `share`."""
    strange = by.random(count) < share
    strange[:clean] = False
    if not strange.any():
        strange[int(by.integers(clean, count))] = True
    lines = []
    for second, odd in enumerate(strange):
        kinds = (STRANGE if odd else USUAL)[split]
        text = kinds[int(by.integers(len(kinds)))].format(n=by.integers(1000), m=by.integers(1, 90), w=by.integers(1, 9))
        lines.append(f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02} {text}\n")
    return lines, strange


def xz_bits(lines: list[bytes]) -> np.ndarray:
    """Bits a byte that each line adds to the compressed size of the 2,048 bytes before it."""
    out, before = [], b""
    for line in lines:
        sizes = [len(lzma.compress(text, lzma.FORMAT_ALONE, preset=1)) for text in (before, before + line)]
        out.append(8 * (sizes[1] - sizes[0]) / len(line))
        before = (before + line)[-BACK:]
    return np.array(out)


def ngram_bits(lines: list[bytes], order: int) -> np.ndarray:
    """Bits a byte of each line under an adaptive model of bytes that mixes contexts of 0 to `order` - 1 bytes."""
    seen: Counter[bytes] = Counter()
    after: Counter[bytes] = Counter()
    out, past = [], b""
    for line in lines:
        bits = 0.0
        for byte in line:
            p = 1 / 256
            for n in range(min(order, len(past) + 1)):
                context = bytes([n]) + past[len(past) - n :]
                both = context + bytes([byte])
                p = (after[both] + 2 * p) / (seen[context] + 2)
                seen[context] += 1
                after[both] += 1
            bits -= math.log2(p)
            past = (past + bytes([byte]))[-order:]
        out.append(bits / len(line))
    return np.array(out)


class Anomalies(TextTask):
    """AUROC of anomalous lines by their cost in bits a byte, in a log of `length` tokens that the model reads once."""

    name = "anomalies"
    Options = AnomalyOptions
    levels = (4096,)
    chance = "1 / 2"

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        o = self.options
        count = max(8, length // reader.count("00:00:00 " + USUAL["test"][0] + "\n"))
        clean = math.ceil(o.warm * count)
        lines, strange = log_lines(count, o.share, clean, by)
        session = reader.read("\n")
        model = [float(-session.append_scored(x).double().sum()) / math.log(2) / len(x.encode()) for x in lines]
        raw = [x.encode() for x in lines]
        found = {"AUROC": np.array(model), "AUROC, xz": xz_bits(raw), "AUROC, n-gram": ngram_bits(raw, o.order)}
        at: dict[str, int | str] = {"length": length}
        return [Observation(score, auroc(bits[clean:], strange[clean:]), at) for score, bits in found.items()]
