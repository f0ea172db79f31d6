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


def ratio(values: Sequence[float], others: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The ratio of the means of pairs, and its percentile bootstrap interval: pairs are drawn together."""
    pairs = np.asarray([values, others], np.float64)
    picks = np.random.default_rng(seed).integers(0, pairs.shape[1], (RESAMPLES, pairs.shape[1]))
    over, under = pairs[:, picks].mean(-1)
    low, high = np.quantile(over / under, [0.025, 0.975])
    return (float(pairs[0].mean() / pairs[1].mean()), float(low), float(high))


def interval(values: Sequence[float]) -> tuple[str, float, float]:
    """The method ("wilson" if every value is 0 or 1, else "bootstrap"), and the interval of the mean."""
    if all(x in (0.0, 1.0) for x in values):
        return ("wilson", *wilson(sum(values), len(values)))
    return ("bootstrap", *bootstrap(values))


# 97.5 % quantiles of Student's t with n - 1 degrees of freedom, for n = 3 to 10 values
STUDENT = (4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157)


def over_seeds(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean over 3 to 10 seeds, by Student's t; None for other numbers of them."""
    if not 3 <= len(values) <= 2 + len(STUDENT):
        return None
    return STUDENT[len(values) - 3] * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def spoken(values: Sequence[float]) -> str:
    """A mean over seeds, its interval, and each seed."""
    half = over_seeds(values)
    reach = "" if half is None else f" ± {half:.3f}"
    return f"{float(np.mean(values)):.3f}{reach} ({', '.join(f'{x:.3f}' for x in values)})"
