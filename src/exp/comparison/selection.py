"""Which runs are compared: those of a sweep, or those that were named; and which of their differences are declared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exp.comparison.trials import Trial
from exp.errors import InputError, nearest
from exp.naming import flat, is_seed, typed_values
from exp.run_folder import RunFolder, run_folders
from exp.sweep_folder import LATEST, Planned, find_sweep, plan_of, sweeps

TRAIN = "train"
"""The task whose runs have something to compare."""

CONTROLLED = ("problem", "precision", "threads", "device", "tracker", "task", "name", "runs", "verify", "seed")
"""Of runs that were named one by one, differences of these keys are not declared by naming them."""


@dataclass(frozen=True)
class Selection:
    """The runs that are compared. `declared` are the keys that are meant to differ; `sweep` is None for named runs.

    `asked` is what was typed to have them: the value of the key "sweep" or "runs".
    """

    title: str
    trials: list[Trial]
    declared: list[str]
    asked: str
    sweep: RunFolder | None = None

    def error(self, problem: str) -> InputError:
        """`problem` as one of the key that chose these runs."""
        return InputError("sweep" if self.sweep else "runs", self.asked, problem)


def selected(runs: Path | str, sweep: str, names: Sequence[str] = (), *, fewest: int = 2) -> Selection:
    """The runs called `names`, or without names those of the sweep. Raises `InputError` (keys "runs" and "sweep")."""
    if names:
        return _named(runs, names)
    found = _sweep(runs, sweep)
    planned = plan_of(found)
    which = "" if found.path.name in sweep else f"{found.path.name} "  # who typed latest is told which
    if tasks := sorted({_task(run) for run in planned} - {TRAIN} if not _trained(planned) else ()):
        raise InputError("sweep", sweep, f"{which}is a sweep of task={','.join(tasks)}; only training runs can be compared")
    trials = [Trial(run.name, run.factors, run.folder, run.status) for run in _trained(planned)]
    if len(trials) < fewest:
        problem = "is a sweep of one run; there is nothing to compare it with: name runs with compare.runs=[…,…]"
        raise InputError("sweep", sweep, f"{which}{problem}")
    declared = dict.fromkeys(key.lstrip("+") for trial in trials for key in trial.factors)
    return Selection(found.path.name, trials, list(declared), sweep, found)


def _sweep(runs: Path | str, name: str) -> RunFolder:
    """The sweep called `name`; for "latest" the newest that trains anything, if there is one."""
    if name == LATEST:
        for folder in reversed(sweeps(runs)):
            if _trained(plan_of(folder)):
                return folder
    return find_sweep(runs, name)


def _trained(planned: Sequence[Planned]) -> list[Planned]:
    return [run for run in planned if _task(run) == TRAIN]


def _task(run: Planned) -> str:
    """The task of a planned run: as recorded, or before it has begun as typed."""
    return run.status.get("task") or typed_values(run.overrides).get("task", TRAIN)


def find_run(runs: Path | str, name: str, *, to_be: str = "compared") -> RunFolder:
    """The training run whose folder (or the end of its name) or name is `name`, or the newest for "latest".

    Raises `InputError` without a key's prefix: the caller knows which key was typed, and what the run is `to_be`.
    """
    found = _found(runs, name)
    if (task := found.status().get("task", TRAIN)) != TRAIN:
        raise InputError("run", name, f"{found.path.name} is a run of task={task}; only training runs can be {to_be}")
    return found


def _found(runs: Path | str, name: str) -> RunFolder:
    """The run of that folder, whatever its task; of a name, and for "latest", a training run where there is one."""
    folders = run_folders(runs)
    if not folders:
        raise InputError("run", name, f"there is no run in {runs}/ yet; python -m exp makes one")
    training = [folder for folder in folders if folder.status().get("task", TRAIN) == TRAIN]
    if name == LATEST:
        return (training or folders)[-1]
    end = name.rstrip("/").rpartition("/")[2]
    if "/" in name and (outside := RunFolder(name)).status():
        return outside
    by_folder = [folder for folder in folders if folder.path.name == end]
    by_end = [folder for folder in folders if len(end) >= 4 and folder.path.name.endswith(f"-{end}")]
    by_name = [
        folder for of_task in (folders, training) for folder in of_task if folder.status().get("name") == name
    ]  # training runs last, so they win
    if found := by_folder or by_end or by_name:
        return found[-1]
    known = [*{folder.status()["name"]: None for folder in folders}, *(folder.path.name for folder in folders)]
    raise InputError("run", name, f"no such run in {runs}/; nearest: {', '.join(nearest(name, known)[:3])}")


def _named(runs: Path | str, names: Sequence[str]) -> Selection:
    folders, asked = [], f"[{','.join(names)}]"
    for name in names:
        try:
            folders.append(find_run(runs, name))
        except InputError as error:
            raise InputError("runs", asked, f"{error.value}: {error.problem}") from None
    if len({folder.path.name for folder in folders}) < 2:
        raise InputError("runs", asked, "nothing to compare: give two runs or more, as [one,other]")
    trials = [Trial(status["name"], {}, folder, status) for folder in folders if (status := folder.status())]
    trials = [replace(trial, name=name) for trial, name in zip(trials, _unique(trials), strict=True)]
    in_sweeps = dict.fromkeys(key for trial in trials for key in trial.status.get("factors", {}))
    factors = _differing(trials)
    declared = [key for key in factors if key in in_sweeps or not _controlled(key)]
    chosen = [
        Trial(trial.name, {key: factors[key][trial.name] for key in factors}, trial.folder, trial.status) for trial in trials
    ]
    return Selection(f"{len(trials)} runs", chosen, declared, asked)


def _unique(trials: list[Trial]) -> list[str]:
    """Names that tell the runs apart: with the end of the folder's name where two have the same."""
    counts = Counter(trial.name for trial in trials)
    ends = [trial.path.rpartition("-")[2] for trial in trials]
    return [f"{trial.name} {end}" if counts[trial.name] > 1 else trial.name for trial, end in zip(trials, ends, strict=True)]


def _controlled(key: str) -> bool:
    return key.partition(".")[0] in CONTROLLED or is_seed(key)


def _differing(trials: list[Trial]) -> dict[str, dict[str, Any]]:
    """What differs in choices and configuration: key to run's name to value. A choice that differs stands for its keys."""
    ignored = ("tracker", "task", "name", "runs", "verify")
    choices = [{key: value for key, value in trial.choices.items() if key not in ignored} for trial in trials]
    leaves = [dict(flat(trial.config)) for trial in trials]
    found: dict[str, dict[str, Any]] = {}
    for source in (choices, leaves):
        for key in dict.fromkeys(key for values in source for key in values):
            root, _, end = key.partition(".")
            values = [each.get(key) for each in source]
            if any(value != values[0] for value in values) and root not in ignored and end != "_target_":
                whole = source is leaves and root in found and any(key not in each for each in source)
                if not whole:
                    found[key] = dict(zip((trial.name for trial in trials), values, strict=True))
    if "seed" in found:  # it is the default of the others
        found = {key: values for key, values in found.items() if key == "seed" or not is_seed(key) or values != found["seed"]}
    return found
