"""Losses at full resolution: bands over seeds, the difference to the baseline's curve, the time to a loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exp.comparison.table import Row
from exp.comparison.trials import Trial

LEVELS = 60
"""How many losses the time to a loss is shown for."""


@dataclass(frozen=True)
class Band:
    """Values over steps (or levels): mean, least and greatest over the runs that have got there, all of one length."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def band(curves: Sequence[np.ndarray]) -> Band:
    """The band of curves of any lengths; it is as long as the longest."""
    length = max((len(curve) for curve in curves), default=0)
    if len(curves) == 1:
        return Band(curves[0], curves[0], curves[0], 1)
    if not length:
        return Band(np.empty(0), np.empty(0), np.empty(0), len(curves))
    stacked = np.full((len(curves), length), np.nan)
    for place, curve in enumerate(curves):
        stacked[place, : len(curve)] = curve
    masked = np.ma.masked_invalid(stacked)
    mean, low, high = (np.ma.filled(found, np.nan) for found in (masked.mean(0), masked.min(0), masked.max(0)))
    return Band(mean, low, high, len(curves))


def losses(row: Row) -> Band:
    """The training loss of a setting over its seeds."""
    return band([trial.losses for trial in row.trials if len(trial.losses)])


def distances(row: Row, baseline: Row) -> Band:
    """|L − L₀| / |L₀| at every step: L a run's loss, L₀ that of the baseline's run of the same seed, else its mean curve."""
    base = {trial.seed: trial.losses for trial in baseline.trials if len(trial.losses)}
    middle = losses(baseline).mean
    found = []
    for trial in row.trials:
        if len(trial.losses):
            reference = base.get(trial.seed, middle)
            length = min(len(reference), len(trial.losses))
            with np.errstate(divide="ignore", invalid="ignore"):
                found.append(np.abs(trial.losses[:length] - reference[:length]) / np.abs(reference[:length]))
    return band([np.where(np.isfinite(distance), distance, np.nan) for distance in found])


def levels(rows: Sequence[Row]) -> np.ndarray:
    """The losses for which times are shown, greatest first: from the greatest first loss to the least loss of all."""
    curves = [trial.losses for row in rows for trial in row.trials if len(trial.losses)]
    if not curves:
        return np.empty(0)
    top, bottom = max(curve[0] for curve in curves), min(curve.min() for curve in curves)
    return np.geomspace(top, bottom, LEVELS) if bottom > 0 else np.linspace(top, bottom, LEVELS)


def times_to(row: Row, wanted: np.ndarray) -> Band:
    """Seconds until each loss in `wanted` was first reached; NaN from where a run of the setting never got there."""
    return band([time_to(trial, wanted) for trial in row.trials if len(trial.losses)])


def time_to(trial: Trial, wanted: np.ndarray) -> np.ndarray:
    """Seconds until the run first had a loss of at most each in `wanted` (greatest first), NaN where it never had."""
    lowest, seconds = np.minimum.accumulate(trial.losses), trial.seconds
    within = wanted + 1e-9 * np.abs(wanted)  # the levels are rounded
    first = np.searchsorted(-lowest, -within)  # of a falling curve, the first at most that high
    return np.where(first < len(seconds), seconds[np.minimum(first, len(seconds) - 1)], np.nan)
