"""Means of observations with 95 % intervals: Wilson for right and wrong answers, the bootstrap for anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES, Z = 2000, 1.959963984540054


def wilson(right: float, count: int) -> tuple[float, float]:
    """The Wilson score interval of a share of `right` answers among `count` independent ones."""
    if not count:
        return (0.0, 1.0)
    share, square = right / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    reach = Z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return (max(0.0, middle - reach), min(1.0, middle + reach))


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean: 2,000 resamples of `values`, which must be independent."""
    given = np.asarray(values, np.float64)
    if len(given) < 2:
        return (-math.inf, math.inf)
    picks = np.random.default_rng(seed).integers(0, len(given), (RESAMPLES, len(given)))
    low, high = np.quantile(given[picks].mean(1), [0.025, 0.975])
    return (float(low), float(high))


def interval(values: Sequence[float]) -> tuple[str, float, float]:
    """The method ("wilson" if every value is 0 or 1, else "bootstrap"), and the interval of the mean."""
    if all(x in (0.0, 1.0) for x in values):
        return ("wilson", *wilson(sum(values), len(values)))
    return ("bootstrap", *bootstrap(values))
