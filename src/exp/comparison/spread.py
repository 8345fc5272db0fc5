"""Statistics over seeds: mean and spread, and whether two samples can be told apart.

Welch's interval: B. L. Welch, The generalization of Student's problem when several different population variances are
involved, Biometrika 34 (1947), with the degrees of freedom of Satterthwaite (1946).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, nan, sqrt
from statistics import fmean, stdev

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """n values: their mean and sample standard deviation (n − 1 in the denominator; NaN for n = 1)."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        return fmean(self.values) if self.values else nan

    @cached_property
    def std(self) -> float:
        return stdev(self.values) if self.n > 1 else nan


@dataclass(frozen=True)
class Interval:
    """What is known of one sample relative to another, at 95 %: a `ratio` of geometric means, or a difference of means."""

    low: float
    high: float
    ratio: bool

    @property
    def apart(self) -> bool:
        """Whether "no difference" lies outside."""
        return not self.low <= (1.0 if self.ratio else 0.0) <= self.high


def welch(sample: Sequence[float], other: Sequence[float]) -> Interval | None:
    """The interval for `sample` relative to `other`, on logarithms where all are positive.

    None where a sample has fewer than two values: nothing is known of its spread.
    d ± t(ν) √(s₁²/n₁ + s₂²/n₂), ν = (s₁²/n₁ + s₂²/n₂)² / Σ (sᵢ²/nᵢ)² / (nᵢ − 1).
    """
    if min(len(sample), len(other)) < 2:
        return None
    ratio = all(value > 0 for value in (*sample, *other))
    first, second = (np.array([log(value) if ratio else value for value in values]) for values in (sample, other))
    shares = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    difference = float(first.mean() - second.mean())
    half = 0.0
    if (variance := sum(shares)) > 0:
        from scipy.special import stdtrit

        terms = [share**2 / (len(values) - 1) for share, values in zip(shares, (first, second), strict=True)]
        half = float(stdtrit(variance**2 / sum(terms), (1 + CONFIDENCE) / 2)) * sqrt(variance)
    low, high = difference - half, difference + half
    return Interval(_exp(low), _exp(high), True) if ratio else Interval(low, high, False)


def _exp(value: float) -> float:
    return exp(min(max(value, -700.0), 700.0))
