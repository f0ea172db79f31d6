"""Changes of rotary frequencies for texts longer than those of the training: f [K/2], in radians a token -> f'.

    linear   f' = f / s
    llama3   f' = f where a turn takes at most L / h tokens, f / s where it takes at least L / l, and in between
             ((1 - m) / s + m) f with m = (L f / (2 pi) - l) / (h - l)
    yarn     f' = (1 - g) f + g f / s, where g rises from 0 to 1 between the pairs that turn b and b' times in L tokens;
             cosines and sines are multiplied by a

Source: arXiv 2306.15595 (linear), arXiv 2309.00071 (yarn: eq. 18 to 22); llama3: the model card of Llama 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Linear:
    """factor: s."""

    factor: float
    attention_factor: float = 1.0

    def scaled(self, f: np.ndarray, theta: float) -> np.ndarray:
        """See the top."""
        return f / self.factor


@dataclass(frozen=True)
class Llama3:
    """factor: s; low_freq_factor, high_freq_factor: l, h; original_max_position_embeddings: L, tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    attention_factor: float = 1.0

    def scaled(self, f: np.ndarray, theta: float) -> np.ndarray:
        """See the top."""
        turns = self.original_max_position_embeddings * f / (2 * math.pi)
        m = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return ((1 - m) / self.factor + m) * f


@dataclass(frozen=True)
class Yarn:
    """factor: s; original_max_position_embeddings: L, tokens; attention_factor: a; beta_fast, beta_slow: b, b'; truncate: g
    begins and ends at whole pairs."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def scaled(self, f: np.ndarray, theta: float) -> np.ndarray:
        """See the top."""
        low, high = (self._pair(beta, 2 * len(f), theta) for beta in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * len(f) - 1)
        g = np.clip((np.arange(len(f)) - low) / (high - low if high != low else 0.001), 0.0, 1.0)
        return (1 - g) * f + g * f / self.factor

    def _pair(self, turns: float, width: int, theta: float) -> float:
        """The (fractional) pair that makes so many turns in L tokens."""
        return width * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))


Scaling = Linear | Llama3 | Yarn
KINDS: dict[str, type[Scaling]] = {"linear": Linear, "llama3": Llama3, "yarn": Yarn}
