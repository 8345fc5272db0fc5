"""exp: controlled experiments on training implementations.

    from exp import run, data, load, results
    run("method=numpy", "training.steps=50").losses

Nothing heavy is imported before it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from exp.problems import Data
    from exp.recorded import Run

__all__ = ["data", "load", "results", "run"]
__version__ = "0.1.0"


def run(*overrides: str, config_dir: str | Path | None = None) -> "Run":
    """Train once, as `python -m exp <overrides>` would but silently, and return the recorded run.

    Raises `InputError` (a `ValueError`) for bad input, and `RuntimeError` for a run that failed.
    """
    from exp.python import run

    return run(*overrides, config_dir=config_dir)


def data(*overrides: str, config_dir: str | Path | None = None) -> "Data":
    """The splits that `python -m exp <overrides>` would train on and evaluate with."""
    from exp.python import data

    return data(*overrides, config_dir=config_dir)


def load(folder: str | Path) -> "Run":
    """A recorded run, from its folder `runs/…`."""
    from exp.recorded import Run

    return Run(folder)


def results(sweep: str = "latest", runs_folder: str | Path = "runs") -> "pandas.DataFrame":
    """The runs of a sweep, by the name of its folder: one row for each run and step, with full histories.

    Columns: `run`, `folder`, `status`, `verdict`; each factor by its key; each number of the run (`final/loss`,
    `time/step_seconds`, …); `step`, `seconds` since the first step began, `train/loss`, `valid/…`: NaN where not measured.
    Raises `InputError` (a `ValueError`) for a sweep that is not there.
    """
    from exp.comparison.frame import results

    return results(sweep, runs_folder)
