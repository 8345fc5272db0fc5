"""exp: controlled experiments on training implementations.

    from exp import run, data, load
    run("method=numpy", "training.steps=50").losses

Nothing heavy is imported before it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exp.problems import Data
    from exp.recorded import Run

__all__ = ["data", "load", "run"]
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
