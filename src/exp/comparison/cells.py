"""The cells of the table as people read them: mean ± standard deviation, and the ratio to the baseline."""

from collections.abc import Sequence
from math import isnan

from exp.comparison.spread import Spread
from exp.comparison.table import MARK, NUMBERS, Row
from exp.naming import short
from exp.summary import number

MARKED = ("final/loss", "time/train_seconds", "memory/host_bytes", "memory/device_bytes")
"""The numbers whose ratio to the baseline stands in brackets behind them."""


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns that the table of these settings has."""
    measured = [name for name in NUMBERS if any(row.spread(name).n for row in rows)]
    failed = ["failures"] if any(row.failures for row in rows) else []
    return ["setting", "n", *measured, *(["speed"] if "steps_per_second" in measured else []), *failed, "verdict"]


def heading(name: str) -> str:
    return NUMBERS.get(name, name)


def text(row: Row, name: str) -> str:
    """One cell."""
    if name == "setting":
        return row.setting
    if name in ("n", "failures"):
        return str(getattr(row, name)) + (f" of {len(row.trials)}" if name == "n" and row.n < len(row.trials) else "")
    if name == "verdict":
        return row.verdict or "–"
    if name == "speed":
        return _with_spread(row.speed, "×", digits=3) + (MARK if row.speed.n and not row.verified else "")
    spread = row.spread(name)
    if not spread.n:
        blew_up = name == "final/loss" and all(trial.state == "blew up" for trial in row.trials)
        return "blew up" if blew_up else "–"
    if name.startswith("memory/"):
        shown = _with_spread(Spread(tuple(value / 2**20 for value in spread.values)), " MiB", digits=3)
    else:
        shown = _with_spread(spread, "", digits=3 if name in ("time/train_seconds", "steps_per_second") else 4)
    ratio = row.relative.get(name)
    return f"{shown} ({ratio:.3g}×)" if name in MARKED and ratio is not None else shown


def _with_spread(spread: Spread, unit: str, *, digits: int) -> str:
    if not spread.n:
        return "–"
    mean = number(spread.mean) if digits == 4 else short(spread.mean, f"#.{digits}g").rstrip(".")
    return f"{mean}{unit}" if isnan(spread.std) else f"{mean} ± {short(spread.std, '.2g')}{unit}"
