"""`exp.run` and `exp.data`: the command line's work from Python."""

import atexit
import warnings
from pathlib import Path

from exp.composition import compose, require_single
from exp.configuration import instantiate
from exp.errors import InputError, within
from exp.experiment import Experiment
from exp.problems import Data
from exp.recorded import Run
from exp.report import Silence
from exp.run_folder import mark_killed
from exp.tasks.train import Train
from exp.tracking.links import follow_up
from exp.tracking.uploader import close_shared_uploader

atexit.register(close_shared_uploader)  # it is kept for the next run, and ends with this process


def run(*overrides: str, config_dir: str | Path | None = None) -> Run:
    """See `exp.run`."""
    experiment, task = _prepared(overrides, config_dir)
    data = experiment.check()
    mark_killed(experiment.runs)
    folder = task.record(experiment, data, Silence())
    if experiment.tracker.address():
        for line in follow_up(experiment, [folder]):
            if line.startswith("not in MLflow"):
                warnings.warn(line, stacklevel=3)
    if (status := folder.status())["status"] == "FAILED":
        raise RuntimeError(f"{status['error']} (traceback in {folder.path}/error.txt)")
    return Run(folder.path)


def data(*overrides: str, config_dir: str | Path | None = None) -> Data:
    """See `exp.data`."""
    experiment, _ = _prepared(overrides, config_dir)
    with within("problem"):
        return experiment.problem.load()


def _prepared(overrides: tuple[str, ...], config_dir: str | Path | None) -> tuple[Experiment, Train]:
    """One training run. Raises `InputError` for what is more, or another task."""
    if not all(isinstance(override, str) for override in overrides):
        raise TypeError("overrides are texts: run('method=numpy', 'training.steps=50')")
    config, choices, typed = compose(list(overrides), config_dir)
    require_single(typed, config, choices)
    experiment, task = instantiate(config, choices, typed)
    if not isinstance(task, Train):
        raise InputError("task", choices["task"], "from Python one run is trained; leave the task out, or python -m exp …")
    return experiment, task
