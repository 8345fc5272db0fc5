"""Statistics of timed blocks: robust, paired, and honest about what repeats with a process rather than with a block.

The estimate of a ratio is the median of averages of pairs of log ratios (Hodges & Lehmann, Estimates of location based on
rank tests, Annals of Mathematical Statistics 34, 1963): nearly as sharp as the mean where times are well-behaved, and blind to
the quarter of the blocks that were disturbed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, sqrt

import numpy as np

CONFIDENCE = 0.95
STRETCHES = 6
"""Each process's rounds are cut into so many stretches: what is alike in neighbouring rounds is not counted as repeated."""

LEAST_OF_A_STRETCH = 3


@dataclass(frozen=True)
class Spread:
    """Seconds a step: the median with its interval at 95 %, and the quartiles."""

    median: float
    low: float
    high: float
    first_quartile: float
    third_quartile: float
    blocks: int


@dataclass(frozen=True)
class Ratio:
    """Time of a step relative to another's, with its interval at 95 %. `error` is the standard error of the log ratio."""

    ratio: float
    low: float
    high: float
    error: float

    @property
    def certain(self) -> bool:
        """Whether 1 lies outside of the interval."""
        return not self.low <= 1.0 <= self.high


def spread(seconds: Sequence[float]) -> Spread:
    """Of the seconds a step of every block. The interval is that of the order statistics: it assumes no distribution.

    P(x₍ₖ₎ ≤ median ≤ x₍ₙ₋ₖ₊₁₎) ≥ 0.95 for the largest such k of the binomial(n, ½); the extremes where n is too small.
    """
    values = np.sort(np.asarray(seconds, dtype=np.float64))
    n = len(values)
    from scipy.special import bdtr

    below = bdtr(np.arange(n), n, 0.5)  # of the binomial distribution: P(at most so many of n values lie below the median)
    rank = max(int((below <= (1 - CONFIDENCE) / 2).sum()) - 1, 0)
    first, median, third = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(values[rank]), float(values[n - 1 - rank]), float(first), float(third), n)


def location(values: np.ndarray) -> float:
    """The Hodges–Lehmann estimate of where `values`, (n,), lie."""
    if len(values) > 600:  # the pairs would be many: every other value, twice
        return (location(values[::2]) + location(values[1::2])) / 2
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))


def paired(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Ratio:
    """Time of `one` relative to `other`: of each process the seconds a step of its rounds, taken in the same rounds.

    Each process is summed up by its location, the estimate is their mean. The standard error is the larger of what the
    stretches of rounds within the processes say (a machine that drifts) and what the processes say (memory that lies
    otherwise in each): a ratio is never called surer than its repetition.
    """
    logs = [np.log(np.asarray(a)) - np.log(np.asarray(b)) for a, b in zip(one, other, strict=True) if len(a)]
    processes = np.array([location(each) for each in logs])
    estimate = float(processes.mean())
    deviations, freedom = [], 0
    for each, centre in zip(logs, processes, strict=True):
        parts = [part for part in np.array_split(each, min(STRETCHES, len(each) // LEAST_OF_A_STRETCH or 1)) if len(part)]
        found = np.array([location(part) for part in parts]) - centre
        weight = len(found) - 1
        deviations.append(float((found**2).sum()) / weight / len(found) if weight else inf)
        freedom += weight
    within = sqrt(sum(deviations)) / len(logs)
    half, error = _student(freedom) * within, within
    if len(logs) >= 3:
        between = float(processes.std(ddof=1)) / sqrt(len(logs))
        half, error = max(half, _student(len(logs) - 1) * between), max(within, between)
    return Ratio(exp(estimate), exp(max(estimate - half, -700.0)), exp(min(estimate + half, 700.0)), error)


def _student(freedom: int) -> float:
    """The quantile of Student's t at 95 %, two-sided."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) if freedom > 0 else inf
