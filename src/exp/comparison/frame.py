"""`exp.results`: the runs of a sweep with their full histories, as a tidy pandas frame."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exp.comparison.selection import Selection, selected
from exp.comparison.trials import Trial
from exp.comparison.verdicts import verdicts

if TYPE_CHECKING:
    import pandas

FIRST = ("run", "folder", "status", "verdict")


def results(sweep: str, runs_folder: Path | str) -> "pandas.DataFrame":
    """See `exp.results`."""
    selection = selected(runs_folder, sweep, fewest=1)
    return frame(selection, verdicts(selection.trials, runs_folder))


def frame(selection: Selection, known: list[str | None]) -> "pandas.DataFrame":
    """One row for each run and step that has measured something.

    Columns: `run`, `folder`, `status`, `verdict`; each declared factor by its key; the run's numbers (`final/loss`,
    `time/step_seconds`, …); `step`, `seconds` (since the first step began) and the histories `train/loss`, `valid/…`: NaN
    where not measured. `train/loss` at step t is the loss before update t, `valid/…` that after t updates: of one state.
    """
    import pandas

    parts, whole = [], []
    for trial, verdict in zip(selection.trials, known, strict=True):
        history = _history(trial)
        if not len(history["step"]):
            continue
        first = [trial.name, trial.folder.path.name if trial.folder else None, trial.state, verdict]
        parts.append(history)
        whole.append(dict(zip(FIRST, first, strict=True)) | trial.factors | trial.metrics)
    lengths = [len(part["step"]) for part in parts]
    of_runs = pandas.DataFrame(whole, columns=None if whole else list(FIRST))
    repeated = of_runs.loc[np.repeat(np.arange(len(parts)), lengths)].reset_index(drop=True)
    names = list(dict.fromkeys(name for part in parts for name in part)) or ["step", "seconds", "train/loss"]
    filled = {
        name: np.concatenate([part.get(name, np.full(length, np.nan)) for part, length in zip(parts, lengths, strict=True)])
        if parts
        else np.empty(0)
        for name in names
    }
    return pandas.concat([repeated, pandas.DataFrame(filled)], axis=1)


def _history(trial: Trial) -> dict[str, np.ndarray]:
    """Every series over the steps at which any was measured."""
    curve, first = trial.curve, trial.metrics.get("time/first_step_seconds", 0.0)
    trained = np.arange(len(trial.losses))
    series: dict[str, tuple[np.ndarray, np.ndarray]] = {"train/loss": (trained, trial.losses)}
    for name in curve:
        group, _, end = name.partition("/")
        if end not in ("step", "time", "") and group != "train":
            steps = curve.get(f"{group}/step", np.arange(len(curve[name])))
            series[name] = steps, curve[name]
    steps = np.unique(np.concatenate([at for at, _ in series.values()])).astype(np.int64)
    found: dict[str, np.ndarray] = {"step": steps, "seconds": np.full(len(steps), np.nan)}
    found["seconds"][np.searchsorted(steps, trained)] = trial.seconds
    if "valid/time" in curve and len(trained):
        start = curve["train/time"][0] - first
        late = np.searchsorted(steps, curve["valid/step"])
        measured = np.maximum(curve["valid/time"] - start, 0.0)
        found["seconds"][late] = np.where(np.isnan(found["seconds"][late]), measured, found["seconds"][late])
    for name, (at, values) in series.items():
        found[name] = np.full(len(steps), np.nan)
        found[name][np.searchsorted(steps, at)] = values
    return found
