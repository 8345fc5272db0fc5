"""The numbers that are shown of a run: its metrics, and the cells of a table of runs."""

from typing import Any

import numpy as np

from exp.curve import Curve
from exp.naming import short


def metrics(curve: Curve) -> dict[str, float]:
    """The numbers that a table shows: `final/…` are the last of their curves."""
    times = {"first_step_seconds": curve.first_step_seconds, "step_seconds": curve.step_seconds}
    times |= {"train_seconds": curve.train_seconds}
    found = {f"time/{name}": value for name, value in times.items()}
    if curve.train_loss:
        found["final/loss"] = curve.train_loss[-1]
    if curve.blew_up_at_step is None:
        found |= {f"final/valid_{name}": values[-1] for name, values in curve.valid.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def valid_columns(statuses: list[dict[str, Any]]) -> list[str]:
    """The validation metrics that these runs have, best known first."""
    names = ("accuracy", "r2")
    return [f"valid {name}" for name in names if any(f"final/valid_{name}" in status.get("metrics", {}) for status in statuses)]


def cell(status: dict[str, Any], column: str) -> str:
    """One cell of a table of runs."""
    metrics = status.get("metrics", {})
    if column == "final loss" and status.get("blew_up_at_step") is not None:
        return f"blew up at {status['blew_up_at_step']}"
    if column == "first loss":
        return number(status.get("first_loss"))
    if column == "final loss":
        return number(metrics.get("final/loss"))
    if column.startswith("valid "):
        return number(metrics.get(f"final/{column.replace(' ', '_')}"))
    if column == "seconds":
        return f"{metrics['time/train_seconds']:.2f}" if "time/train_seconds" in metrics else "–"
    if column in ("run", "verdict"):
        return str(status.get({"run": "name"}.get(column, column), "–"))
    return str(status["choices"].get(column, "–"))


def outcome(status: dict[str, Any]) -> str:
    """What became of a run, in a few words."""
    if status["status"] != "FINISHED":
        return status["status"].lower() + (f": {status['error']}" if status.get("error") else "")
    if status.get("blew_up_at_step") is not None:
        return f"blew up at step {status['blew_up_at_step']}"
    if "final/loss" in status.get("metrics", {}):
        return f"train/loss {number(status['metrics']['final/loss'])}"
    return str(status.get("verdict", "finished"))


def number(value: float | None) -> str:
    """Four significant digits: as many as float32 sums in different orders agree on."""
    return "–" if value is None else short(float(f"{value:.3e}"), ".3e" if not 1e-3 <= abs(value) < 1e6 and value else ".4g")
