"""The table: one row for each setting (the factors without the seed), its numbers over the seeds and relative to a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, isnan, nan
from typing import Any

from exp.comparison.spread import Spread
from exp.comparison.trials import Trial
from exp.errors import InputError, listed, nearest
from exp.naming import is_seed

NUMBERS = {
    "final/loss": "final loss",
    "final/valid_accuracy": "valid accuracy",
    "final/valid_r2": "valid r2",
    "final/valid_loss": "valid loss",
    "time/train_seconds": "seconds",
    "memory/host_bytes": "memory",
    "memory/device_bytes": "device memory",
    "steps_per_second": "steps/s",
}
"""The numbers of a run that are compared, and their headings. Seconds are those in training steps; memory is in bytes."""

MARK = " (unverified)"
"""Stands behind the speed of what has no `equivalent` verdict."""


@dataclass(frozen=True)
class Row:
    """One setting: its runs, those that count (finished, not blown up), and their numbers over the seeds."""

    setting: str
    factors: dict[str, Any]
    trials: list[Trial]
    numbers: dict[str, Spread]
    verdict: str | None
    relative: dict[str, float] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.trials[0].method

    @property
    def n(self) -> int:
        return sum(trial.state == "finished" for trial in self.trials)

    @property
    def failures(self) -> int:
        """Runs that failed, were killed or blew up."""
        return sum(trial.state in ("failed", "killed", "blew up") for trial in self.trials)

    @property
    def verified(self) -> bool:
        return self.verdict == "equivalent"

    def spread(self, name: str) -> Spread:
        """A number over the seeds, `speed` too; empty where no run has it."""
        return self.speed if name == "speed" else self.numbers.get(name, Spread(()))

    @cached_property
    def speed(self) -> Spread:
        """Steps per second relative to the mean of the baseline's."""
        pace = self.spread("steps_per_second")
        base = pace.mean / self.relative.get("steps_per_second", nan)
        return Spread(tuple(value / base for value in pace.values) if isfinite(base) else ())

    @cached_property
    def values(self) -> dict[str, Any]:
        """The row as plain values by the names that conditions, CSV and JSON use. None: not measured.

        `final/loss` … are means over the seeds, `…_std` their sample standard deviations, `…_relative` their ratios to the
        baseline's mean; `speed` is relative to the baseline, `steps_per_second` is not; `failures` counts runs.
        """
        found: dict[str, Any] = {"setting": self.setting, **self.factors, "n": self.n, "failures": self.failures}
        found |= {"verdict": self.verdict, "runs": len(self.trials)}
        for name, spread in self.numbers.items():
            short = {"time/train_seconds": "seconds"}.get(name, name)
            found |= {short: _known(spread.mean), f"{short}_std": _known(spread.std)}
            found[f"{short}_relative"] = _known(self.relative.get(name, nan))
        return found | {"speed": _known(self.speed.mean), "speed_std": _known(self.speed.std)}


def rows(trials: Sequence[Trial], verdicts: Sequence[str | None]) -> list[Row]:
    """The settings in the order of the plan, without a baseline yet."""
    settings: dict[str, list[tuple[Trial, str | None]]] = {}
    for trial, verdict in zip(trials, verdicts, strict=True):
        settings.setdefault(trial.setting, []).append((trial, verdict))
    names = [name for name in NUMBERS if any(name in _numbers(trial) for trial in trials)]
    found = []
    for setting, pairs in settings.items():
        mine = [trial for trial, _ in pairs]
        measured = [_numbers(trial) for trial in mine if trial.state == "finished"]
        numbers = {name: Spread(tuple(each[name] for each in measured if name in each)) for name in names}
        factors = {key: value for key, value in mine[0].factors.items() if not is_seed(key)}
        found.append(Row(setting, factors, mine, numbers, _common([verdict for _, verdict in pairs])))
    return found


def relative_to(baseline: Row, others: Sequence[Row]) -> list[Row]:
    """The rows with their numbers relative to the baseline's means, as ratios."""

    def ratios(row: Row) -> dict[str, float]:
        pairs = {name: (spread.mean, baseline.spread(name).mean) for name, spread in row.numbers.items()}
        return {name: value / base for name, (value, base) in pairs.items() if base and not isnan(value) and not isnan(base)}

    return [Row(row.setting, row.factors, row.trials, row.numbers, row.verdict, ratios(row)) for row in others]


def baseline_of(found: Sequence[Row], asked: str | None) -> Row:
    """The row that the others are compared to: as asked, or the first of the plan that has finished.

    `asked` is a setting, a run's name, folder or the end of it, or `factor=value` words. Raises `InputError` (key "baseline").
    """
    if asked is None:
        return next((row for row in found if row.n), found[0])
    end = asked.rstrip("/").rpartition("/")[2] or asked
    for row in found:
        folders = [trial.folder.path.name for trial in row.trials if trial.folder]
        if asked in (row.setting, *(trial.name for trial in row.trials)) or end in folders:
            return row
        if len(end) >= 4 and any(folder.endswith(f"-{end}") for folder in folders):
            return row
    if fitting := fitting_rows(found, asked):
        return next((row for row in fitting if row.n), fitting[0])
    words_of_rows = dict.fromkeys(f"{key}={value}" for row in found for key, value in row.factors.items())
    known = [*words_of_rows, *(row.setting for row in found)]
    problem = f"none of the compared runs; choose {listed(nearest(asked, dict.fromkeys(known))[:3])}, or a run folder"
    raise InputError("baseline", asked, problem)


def fitting_rows(found: Sequence[Row], asked: str) -> list[Row]:
    """The rows of which each `factor=value` word of `asked` holds."""
    words = [word.partition("=") for word in asked.replace(",", " ").split()]
    return [row for row in found if words and all(equals and _fits(row, key, value) for key, equals, value in words)]


def _fits(row: Row, key: str, value: str) -> bool:
    """Whether `key=value` holds of the row; a key by its end alone too, a number in any spelling."""
    for name, own in row.factors.items():
        if key in (name, name.rpartition(".")[2]):
            try:
                return float(value) == float(own)
            except (TypeError, ValueError):
                return value == str(own)
    return False


def _numbers(trial: Trial) -> dict[str, float]:
    found = dict(trial.metrics)
    if seconds := found.get("time/step_seconds"):
        found["steps_per_second"] = 1 / seconds
    return found


def _common(found: Sequence[str | None]) -> str | None:
    """One verdict for the runs of a setting: the worst there is; none where a run has none."""
    order = ("different", "undecided", "unsupported")
    return next((verdict for verdict in order if verdict in found), None if None in found else "equivalent")


def _known(value: float) -> float | None:
    return value if isfinite(value) else None
