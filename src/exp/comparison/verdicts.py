"""What is known about the correctness of each run: its own verdict, or that of a verification of the same step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exp.comparison.pair import codes
from exp.comparison.trials import Trial
from exp.naming import flat, is_seed
from exp.run_folder import run_folders

STEP = ("method", "device", "precision", "problem", "network", "loss", "optimizer")
"""The groups that say what a step computes, and where."""


def verdicts(trials: Sequence[Trial], runs: Path | str) -> list[str | None]:
    """The verdict on each run: its own, else of the newest task=verify under `runs` with the same step; None: unknown.

    The same step: the same choices and configuration but for the rate and seeds, and the same code as far as recorded.
    """
    own = [trial.status.get("verdict") for trial in trials]
    if all(own):
        return own
    judged = [
        Trial(folder.path.name, {}, folder, status)
        for folder in run_folders(runs)
        if (status := folder.status()).get("task") == "verify" and status.get("verdict")
    ]
    known = [(_step(judge), judge) for judge in reversed(judged)]
    return [
        verdict or next((judge.status["verdict"] for step, judge in known if _judges(step, judge, trial)), None)
        for verdict, trial in zip(own, trials, strict=True)
    ]


def _judges(step: list[Any], judge: Trial, trial: Trial) -> bool:
    return bool(trial.config) and step == _step(trial) and _same_code(judge, trial)


def _step(trial: Trial) -> list[Any]:
    leaves = {
        key: value
        for key, value in flat({group: trial.config.get(group) for group in STEP})
        if key != "optimizer.lr" and not is_seed(key)
    }
    return [{group: trial.choices.get(group) for group in STEP}, leaves]


def _same_code(judge: Trial, trial: Trial) -> bool:
    first, second = codes(judge, trial)
    return all(first[name] == second[name] for name in first.keys() & second.keys())
